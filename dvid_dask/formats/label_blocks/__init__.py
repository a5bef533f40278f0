"""DVID's compressed label block: a table of labels and, per 8 x 8 x 8 sub-block, packed positions into it.

Layout (little-endian; sub-blocks and voxels in zyx order, x fastest)::

    uint32 gx, gy, gz        sub-blocks per dimension
    uint32 N                 entries of the label table
    uint64 table[N]          for N = 1 the block ends here: it is solid
    uint16 Ns[gz*gy*gx]      labels in each sub-block
    uint32 index[sum(Ns)]    their positions in the table
    bytes  values            per sub-block with Ns > 1: 512 values of ceil(log2(Ns)) bits, most significant bit first

The layout is that of DVID's `datatype/common/labels` package and of the ``compression=blocks`` streams of its REST
API. What other writers may produce and every reader here accepts: labels twice in the table or never used,
sub-blocks with Ns = 0 (all voxels 0), bytes after the end. What can't be decoded is refused with `FormatError`.

Our encoder is canonical: the table ascends, a sub-block lists its labels in order of first appearance, so equal
voxels give equal bytes. A block whose table was patched (`replace_labels`) may hold duplicates; `normalize`
brings it back.

Work on the table wherever you can: `labels`, `replace_labels`, `count` and the octant form of `downsample` never
expand voxels to 64 bits.
"""

from dvid_dask.formats.label_blocks.decoding import (
    decode_block,
    decode_blocks_into,
    decode_box,
    mask,
    mask_sorted,
    pick,
)
from dvid_dask.formats.label_blocks.encoding import (
    count_blocks,
    encode_and_count,
    encode_block,
    encode_blocks,
)
from dvid_dask.formats.label_blocks.layout import (
    block_shape,
    check_block,
    is_solid,
    labels,
    parse_block,
    raise_for,
    replace_labels,
    solid_block,
    sub_tables,
    table_hits,
    uniform_sub_blocks,
)
from dvid_dask.formats.label_blocks.memory import (
    MAX_VOXELS,
    flat_labels,
    scratch_for,
)
from dvid_dask.formats.label_blocks.scaling import (
    count,
    distinct,
    downsample,
    downsample_array,
    normalize,
    remap_array,
)

__all__ = [
    "MAX_VOXELS",
    "block_shape",
    "check_block",
    "count",
    "count_blocks",
    "decode_block",
    "decode_blocks_into",
    "decode_box",
    "distinct",
    "downsample",
    "downsample_array",
    "encode_and_count",
    "encode_block",
    "encode_blocks",
    "flat_labels",
    "is_solid",
    "labels",
    "mask",
    "mask_sorted",
    "normalize",
    "parse_block",
    "pick",
    "raise_for",
    "remap_array",
    "replace_labels",
    "scratch_for",
    "solid_block",
    "sub_tables",
    "table_hits",
    "uniform_sub_blocks",
]
