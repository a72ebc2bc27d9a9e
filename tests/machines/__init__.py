"""Several machines on this one: namespaces for network, files, host name and processes, and cables between them."""
