"""The command line: a module for each command, and what they share.

`_app` is the frame: the commands and what ends them. `_server` has the options that say where the
server is and who logs in, `_secrets` where the password comes from, `_exit` the exit codes, `_loop`
the event loop and Ctrl-C, `_screen` what is printed. `_send` sends what `_compose` makes or reads.
`_bulk` sends what `_letters` finds or `_template` makes of `_rows`: `_shipment` does it, `_journal`
knows what became of each, `_past` what another run does about that, and `_progress` shows it.
`_probe` shows what `_look` saw of a server, and `_findings` says what is wrong with it.
"""
