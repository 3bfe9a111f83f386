"""The outage spool: where callbacks wait while the broker takes none.

The ingress hands each callback to an ``Outlet``, which answers for it: the broker
has it, or else the spool on this machine's disk has. A ``Forwarder`` brings what is
in the spool to the broker as soon as that is back. Nothing here knows HTTP.
"""
