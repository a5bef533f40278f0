/* Looks voxels up in a raw grid with PNanoVDB, NanoVDB's one-file reader for C: test_readers.py compares.
 *
 *   reader GRID POINTS OUT     POINTS: int32 x, y, z of voxels
 *
 * OUT: per voxel float64 value (or index) and uint8 state. Text about the grid goes to the standard output.
 */
#define PNANOVDB_C
#define PNANOVDB_BUF_BOUNDS_CHECK
#include <PNanoVDB.h>

#include <stdio.h>
#include <stdlib.h>

static void* slurp(const char* path, size_t* size)
{
    FILE* f = fopen(path, "rb");
    if (!f) exit(2);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    void* data = aligned_alloc(32, (*size + 31) / 32 * 32 + 32);
    if (fread(data, 1, *size, f) != *size) exit(2);
    fclose(f);
    return data;
}

int main(int argc, char** argv)
{
    size_t grid_size, points_size;
    if (argc != 4) return 2;
    uint32_t* data = (uint32_t*)slurp(argv[1], &grid_size);
    int32_t* points = (int32_t*)slurp(argv[2], &points_size);
    FILE* out = fopen(argv[3], "wb");
    if (!out) return 2;

    pnanovdb_buf_t buf = pnanovdb_make_buf(data, grid_size / 4);
    pnanovdb_grid_handle_t grid = {pnanovdb_address_null()};
    pnanovdb_tree_handle_t tree = pnanovdb_grid_get_tree(buf, grid);
    pnanovdb_root_handle_t root = pnanovdb_tree_get_root(buf, tree);
    pnanovdb_uint32_t type = pnanovdb_grid_get_grid_type(buf, grid);
    pnanovdb_coord_t low = pnanovdb_root_get_bbox_min(buf, root), high = pnanovdb_root_get_bbox_max(buf, root);
    printf("type %u\nclass %u\n", type, pnanovdb_grid_get_grid_class(buf, grid));
    printf("voxels %llu\n", (unsigned long long)pnanovdb_tree_get_voxel_count(buf, tree));
    printf("box %d %d %d %d %d %d\n", low.x, low.y, low.z, high.x, high.y, high.z);
    printf("voxel_size %.17g %.17g %.17g\n", pnanovdb_grid_get_voxel_size(buf, grid, 0),
           pnanovdb_grid_get_voxel_size(buf, grid, 1), pnanovdb_grid_get_voxel_size(buf, grid, 2));

    pnanovdb_readaccessor_t acc;
    pnanovdb_readaccessor_init(&acc, root);
    for (size_t i = 0; i < points_size / 12; ++i) {
        pnanovdb_coord_t ijk = {points[3 * i], points[3 * i + 1], points[3 * i + 2]};
        pnanovdb_uint32_t level;
        pnanovdb_address_t at = pnanovdb_readaccessor_get_value_address_and_level(type, buf, &acc, &ijk, &level);
        double value;
        if (type == PNANOVDB_GRID_TYPE_ONINDEX) {
            value = (double)pnanovdb_root_onindex_get_value_index(buf, at, &ijk, level);
        } else if (type == PNANOVDB_GRID_TYPE_FLOAT) {
            value = pnanovdb_read_float(buf, at);
        } else if (type == PNANOVDB_GRID_TYPE_UINT32) {
            value = pnanovdb_read_uint32(buf, at);
        } else {
            pnanovdb_uint64_t byte = at.byte_offset;
            value = data[byte / 4] >> 8 * (byte % 4) & 255u;
        }
        uint8_t state = (uint8_t)pnanovdb_readaccessor_is_active(type, buf, &acc, &ijk);
        fwrite(&value, 8, 1, out);
        fwrite(&state, 1, 1, out);
    }
    fclose(out);
    return 0;
}
