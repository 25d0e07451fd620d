"""The contract: messages, manifest, topics, versions, targeting and codec. Pure: no I/O anywhere below here."""
