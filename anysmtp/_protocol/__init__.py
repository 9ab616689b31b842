"""SMTP without I/O: bytes in and out, commands, replies, states and plans.

Nothing here knows a socket, a clock or an event loop; the connection above it does.
"""
