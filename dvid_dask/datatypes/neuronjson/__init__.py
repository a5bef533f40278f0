"""JSON annotations of neurons, by body id, with stamps of who set each field and when.

=============  ==================================================================================
`record`       how an annotation is stored, and which parts of it a reader gets
`posting`      what becomes of it by a post, and by a merge of branches
`schema`       JSON Schemas that posts must follow
`query`        what can be asked
`columns`      all annotations of all versions in memory: rows, and columns by field
`library`      versions in memory, each made from another one by what differs
`frames`       annotations as Arrow tables
`methods`      reads, writes and histories
`datatype`     the class
=============  ==================================================================================
"""

from .datatype import FieldChange, NeuronJSON
from .library import memory, set_memory
from .record import Selection

__all__ = ["FieldChange", "NeuronJSON", "Selection", "memory", "set_memory"]
