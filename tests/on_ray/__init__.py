"""The whole system on a real Ray: programs, a server that stays, agents and workers on two nodes.

The tests of calls that `tests/client`, `tests/faults` and `tests/nodes` have for other engines are run here again, as
they are: a module named ``test_…_again`` has all of another one's but for what it leaves out, each with a reason.
Left out is

- what a program's own server does (its client starts it again, it ends with its program): on a Ray the server stays. So
  all of `test_leftovers` and of `test_embedded` is left out, and of `test_chaos` what is about such a server; the
  `test_chaos` here kills a server that is started again from outside.
- what the server alone decides, whichever engine it has: frames, stores, doors.
- what is about the number of cores that a variable gives the one node of the local engine.
- what needs a network between two nodes that can be cut: that is `tests/nodes`.

`test_faults` breaks its own Ray; all others share one of two nodes, with two cores and two made-up GPUs each.
"""
