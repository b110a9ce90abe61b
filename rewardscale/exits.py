"""Exit codes of all commands; launch/README.md says in a table which of them a cluster starts again."""

DONE = 0
FAILED = 1  # some of what was asked for failed, the rest is done; or a bug
UNUSABLE = 2  # bad input: the same command would end alike
WAITING = 3  # for people (rewardscale.curate)
# A full, broken or lost disk, hosts that did not come together, a training that hung: sysexits.h's EX_TEMPFAIL, a later
# start may do.
AGAIN = 75
INTERRUPTED = 130  # stopped by a signal, the state saved: the same command goes on
TERMINATED = 143  # ended by SIGTERM before there was a state to save
