"""Exit codes of all commands; launch/README.md says in a table which of them a cluster starts again."""

DONE = 0
FAILED = 1  # some of what was asked for failed, the rest is done; or a bug
UNUSABLE = 2  # bad input: the same command would end alike
WAITING = 3  # for people (rewardscale.curate)
AGAIN = 75  # AGAIN_HELP says when; sysexits.h's EX_TEMPFAIL
INTERRUPTED = 130  # stopped by a signal, the state saved: the same command goes on
TERMINATED = 143  # ended by SIGTERM before there was a state to save

# The end of every command's --help.
AGAIN_HELP = f"""\
exit code {AGAIN}: the machine's fault; the same command may do later. A disk that is full, broken or gone; an object
store that is away (it does not answer, or only with errors that pass); hosts that did not come together; a training
that hung (only with --config.runtime.watchdog_exit=true)"""
