"""Who sends mail how fast: anysmtp, its peers, and what the protocol and AnyIO allow.

``nox -s bench`` measures; ``nox -s bench -- --help`` says what can be chosen. A run is `workloads`
times `clients`, round by round: in each round every client does the work once, in a fresh process
(`worker`), so that a machine which is slow for a while is slow for all of them. `servers` are
started once: the `sink` of the benchmark's own, Postfix's ``smtp-sink``, and Postfix. `report`
makes of it a table in Markdown and a JSON file, with medians, spread, and each client's ratio to
aiosmtplib in the same round.

`floor` is what anysmtp is to be held against: the same bytes, hand-written on AnyIO, without
anything that makes a library. `profile` says where the rest of anysmtp's time goes.
"""
