"""Several nodes on this machine, without Ray: real agents, real workers, a real server; the cluster is a file."""
