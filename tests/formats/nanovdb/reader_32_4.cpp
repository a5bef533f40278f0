// Reads a value grid with the C++ headers of NanoVDB 32.4, those of Debian's libnanovdb-dev: its validator, iterators and
// accessor. 32.4 tells files and grids by an older magic number, which is put into the copy in memory, and knows neither
// OnIndex grids nor the checksum of 32.6; see reader.cpp for these.
//
//   reader GRID POINTS OUT     GRID: one raw grid; the others as for reader.cpp
#include <iostream>

#include <nanovdb/NanoVDB.h>
#include <nanovdb/util/GridHandle.h>
#include <nanovdb/util/GridValidator.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <vector>

using nanovdb::Coord;

struct Out {
    std::ofstream os;
    template<typename T> void put(T value) { os.write(reinterpret_cast<const char*>(&value), sizeof(T)); }
};

template<typename BuildT>
static void report(const nanovdb::NanoGrid<BuildT>& grid, const std::vector<Coord>& points, Out& out)
{
    using namespace nanovdb;
    const auto box = grid.indexBBox();
    std::printf("name %s\n", grid.gridName());
    std::printf("class %u\ntype %u\n", unsigned(grid.gridClass()), unsigned(grid.gridType()));
    std::printf("voxels %llu\n", (unsigned long long)grid.activeVoxelCount());
    std::printf("box %d %d %d %d %d %d\n", box.min()[0], box.min()[1], box.min()[2], box.max()[0], box.max()[1],
                box.max()[2]);
    std::printf("voxel_size %.17g %.17g %.17g\n", grid.voxelSize()[0], grid.voxelSize()[1], grid.voxelSize()[2]);
    const auto world = grid.map().applyMap(Vec3d(1, 2, 3)), back = grid.map().applyInverseMap(world);
    std::printf("world %.9g %.9g %.9g\n", world[0], world[1], world[2]);
    std::printf("back %.9g %.9g %.9g\n", back[0], back[1], back[2]);
    const auto error = GridValidator<BuildT>::check(grid, true);
    std::printf("checked %s\n", error.empty() ? "1" : error.c_str());

    std::vector<Coord> voxels;
    const auto* leaf = grid.tree().template getFirstNode<0>();
    for (uint32_t i = 0; i < grid.tree().nodeCount(0); ++i, ++leaf)
        for (auto it = leaf->beginValueOn(); it; ++it) voxels.push_back(it.getCoord());
    out.put(uint64_t(voxels.size()));
    for (const auto& ijk : voxels) { out.put(ijk[0]); out.put(ijk[1]); out.put(ijk[2]); }
    auto acc = grid.getAccessor();
    for (const auto& ijk : points) {
        out.put(double(acc.getValue(ijk)));
        out.put(uint8_t(acc.isActive(ijk)));
    }
}

int main(int argc, char** argv)
{
    if (argc != 4) return 2;
    std::ifstream is(argv[2], std::ios::binary);
    std::vector<Coord> points;
    int32_t p[3];
    while (is.read(reinterpret_cast<char*>(p), 12)) points.emplace_back(p[0], p[1], p[2]);
    Out out{std::ofstream(argv[3], std::ios::binary)};
    std::ifstream file(argv[1], std::ios::binary | std::ios::ate);
    const auto size = uint64_t(file.tellg());
    auto buffer = nanovdb::HostBuffer::create(size);
    file.seekg(0);
    file.read(reinterpret_cast<char*>(buffer.data()), std::streamsize(size));
    const uint64_t magic = NANOVDB_MAGIC_NUMBER;
    std::memcpy(buffer.data(), &magic, sizeof(magic));
    nanovdb::GridHandle<nanovdb::HostBuffer> handle(std::move(buffer));
    std::printf("grid 0\n");
    if (auto* grid = handle.grid<float>()) report(*grid, points, out);
    else if (auto* grid = handle.grid<uint32_t>()) report(*grid, points, out);
    else return 3;
    return 0;
}
