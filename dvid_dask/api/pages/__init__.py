"""The pages that people see in a browser: what is in the store, how its versions hang together, and a viewer for each.

=============  ================================================================================
`front`        the pages' addresses and what fills them
`graph`        the drawing of a repository's versions
`cards`        what a page says of a data instance at a version
`viewer`       neuroglancer, served from the installed package, opened on a version
=============  ================================================================================
"""

from .front import page_of

__all__ = ["page_of"]
