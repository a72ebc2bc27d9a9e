"""What runs in processes of their own: the same work on Stoker and on each peer.

Each function here is a generator with one ``yield``: it sets the stage, yields what does one turn of the work, and
tears down. `bench.side` runs it.
"""
