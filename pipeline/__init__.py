"""A durable pipeline behind the callback address of an AI-music provider.

Start reading with ``errors.py``, ``message.py`` and ``topology.py``; the ports are
``broker/port.py``, ``ledger/port.py`` and ``assets/store.py``.
"""
