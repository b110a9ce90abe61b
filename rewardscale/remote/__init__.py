"""Work kept on an object store (s3://, gs://, ...), by machines that share nothing else.

A run goes on in a folder of its own machine. What is whole there goes to the store, and what is in the store comes back
on any other machine. Nothing on a store is renamed, locked or half-written; so

objects   reads and whole puts, puts that fail if the object is there, retries, and one clear error
commits   a set of files and the record that names them, put last
leases    who is at a piece of work: numbered objects with a heartbeat, taken over when it stops
origin    the folder that is this machine's copy of a URL
keeper    a run under a lease, whose checkpoints go up while it trains
publish   a finished folder under its own file names, records last
"""
