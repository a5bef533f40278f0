"""The methods of `NeuronJSON`, a class to each subject; each builds on the one above it.

===========  ====================================================================
`reading`    single annotations, queries, tables
`writing`    posts, deletions, documents
`history`    what changed between versions, merges of versions, disagreements
===========  ====================================================================
"""
