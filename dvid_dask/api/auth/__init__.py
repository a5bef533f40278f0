"""Who asks, and what they may: authentication and authorization as DVID's configuration states them.

=============  ================================================================================================
`guard`        decides: which requests need a user, and what that one may read or write
`public`       versions that everybody may read
`gateway`      users by a token of the DatasetGateway, which is asked and whose answers are kept for a while
`webtokens`    users by a signed JSON Web Token, and the file that lists them
`issuing`      tokens for those whom a proxy knows
=============  ================================================================================================

All requests at repositories and versions pass :func:`dvid_dask.api.nodes.gate`, which asks the guard, whichever way
they came: over a thread, on the event loop, or straight from the HTTP parser. What shows repositories elsewhere asks it
what may be seen (`visible_of`). With no mode configured there is no guard.
"""

from __future__ import annotations

from .guard import READS, Guard, guard_of, visible_of

__all__ = ["READS", "Guard", "guard_of", "visible_of"]
