"""The cost of a method: time (`timing`), memory (`memory`), operations (`flops`), and on what machine (`environment`).

Latency and memory are measured in separate passes, each in a process of its own; timings of different environments
(another `fingerprint`) never share a table.
"""
