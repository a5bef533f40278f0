// Reads a file with NanoVDB's own reader and writes what it holds: tests/formats/nanovdb/test_readers.py compares.
//
//   reader FILE POINTS OUT     POINTS: int32 x, y, z of voxels to look up
//
// OUT, per grid: uint64 number of active voxels, int32 x, y, z of each in the order of leaves and bits, then per voxel
// of POINTS float64 value and uint8 state. Text about the grids goes to the standard output, one "key value" a line.
#include <nanovdb/NanoVDB.h>
#include <nanovdb/NodeManager.h>
#include <nanovdb/io/IO.h>
#include <nanovdb/tools/CreateNanoGrid.h>
#include <nanovdb/tools/GridBuilder.h>
#include <nanovdb/tools/GridStats.h>
#include <nanovdb/tools/GridValidator.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <type_traits>
#include <vector>

using nanovdb::Coord;

struct Out {
    std::ofstream os;
    template<typename T> void put(T value) { os.write(reinterpret_cast<const char*>(&value), sizeof(T)); }
};

// the same voxels through NanoVDB's own builder: do its bytes equal ours?
static bool sameAsBuilt(const nanovdb::NanoGrid<nanovdb::ValueOnIndex>& grid, const std::vector<Coord>& voxels)
{
    using namespace nanovdb;
    tools::build::Grid<float> built(0.0f, grid.gridName(), GridClass::Unknown);
    auto acc = built.getAccessor();
    for (const auto& ijk : voxels) acc.setValue(ijk, 1.0f);
    auto handle = tools::createNanoGrid<tools::build::Grid<float>, ValueOnIndex>(
        built, 0u, false, false);
    auto* theirs = handle.grid<ValueOnIndex>();
    if (!theirs) return false;
    tools::updateGridStats(theirs, tools::StatsMode::BBox);
    const uint64_t skip = sizeof(GridData);
    const uint64_t ours = grid.mBlindMetadataCount ? uint64_t(grid.mBlindMetadataOffset) : grid.gridSize();
    const uint64_t others = theirs->mBlindMetadataCount ? uint64_t(theirs->mBlindMetadataOffset) : theirs->gridSize();
    if (ours != others) {
        std::printf("size_of_built %llu %llu\n", (unsigned long long)ours, (unsigned long long)others);
        return false;
    }
    const auto* a = reinterpret_cast<const uint8_t*>(&grid);
    const auto* b = reinterpret_cast<const uint8_t*>(theirs);
    for (uint64_t i = skip; i < ours; ++i)
        if (a[i] != b[i]) {
            std::printf("differs_at %llu\n", (unsigned long long)i);
            return false;
        }
    return theirs->mData1 == grid.mData1;
}

template<typename T> static double apart(T a, T b)
{
    return std::fabs(double(a) - double(b)) / std::max({1.0, std::fabs(double(a)), std::fabs(double(b))});
}

// statistics and boxes computed anew by NanoVDB, against those in the file
template<typename BuildT> static double statsApart(const nanovdb::NanoGrid<BuildT>& grid)
{
    using namespace nanovdb;
    HostBuffer buffer = HostBuffer::create(grid.gridSize());
    std::memcpy(buffer.data(), &grid, grid.gridSize());
    auto* copy = reinterpret_cast<NanoGrid<BuildT>*>(buffer.data());
    constexpr bool hasValues = !BuildTraits<BuildT>::is_index;
    tools::updateGridStats(copy, hasValues ? tools::StatsMode::All : tools::StatsMode::BBox);
    double worst = 0;
    if constexpr (!hasValues) {
        worst = std::memcmp(copy, &grid, grid.gridSize()) ? 1 : 0;
    } else {
        auto look = [&](const auto& a, const auto& b, bool box) {
            if (!box) worst = 1;
            worst = std::max(worst, apart(a.mMinimum, b.mMinimum));
            worst = std::max(worst, apart(a.mMaximum, b.mMaximum));
            worst = std::max(worst, apart(a.mAverage, b.mAverage));
            worst = std::max(worst, apart(a.mStdDevi, b.mStdDevi));
        };
        const auto &a = grid.tree(), &b = copy->tree();
        look(a.root(), b.root(), a.root().mBBox == b.root().mBBox);
        for (uint32_t i = 0; i < a.nodeCount(2); ++i) {
            const auto &n = a.template getFirstNode<2>()[i], &m = b.template getFirstNode<2>()[i];
            look(n, m, n.mBBox == m.mBBox && n.mFlags == m.mFlags);
        }
        for (uint32_t i = 0; i < a.nodeCount(1); ++i) {
            const auto &n = a.template getFirstNode<1>()[i], &m = b.template getFirstNode<1>()[i];
            look(n, m, n.mBBox == m.mBBox && n.mFlags == m.mFlags);
        }
        for (uint32_t i = 0; i < a.nodeCount(0); ++i) {
            const auto &n = a.template getFirstNode<0>()[i], &m = b.template getFirstNode<0>()[i];
            look(n, m, n.mBBoxMin == m.mBBoxMin && !std::memcmp(n.mBBoxDif, m.mBBoxDif, 3) && n.mFlags == m.mFlags);
        }
        if (std::memcmp(&grid.mFlags, &copy->mFlags, 4)) worst = 1;
    }
    if (std::memcmp(&grid.mWorldBBox, &copy->mWorldBBox, sizeof(grid.mWorldBBox))) worst = 1;
    return worst;
}

template<typename BuildT>
static void report(const nanovdb::NanoGrid<BuildT>& grid, const std::vector<Coord>& points, Out& out)
{
    using namespace nanovdb;
    const auto box = grid.indexBBox();
    std::printf("name %s\n", grid.gridName());
    std::printf("class %u\ntype %u\n", unsigned(grid.gridClass()), unsigned(grid.gridType()));
    std::printf("voxels %llu\n", (unsigned long long)grid.activeVoxelCount());
    std::printf("values %llu\n", (unsigned long long)grid.mData1);
    std::printf("box %d %d %d %d %d %d\n", box.min()[0], box.min()[1], box.min()[2], box.max()[0], box.max()[1],
                box.max()[2]);
    std::printf("voxel_size %.17g %.17g %.17g\n", grid.voxelSize()[0], grid.voxelSize()[1], grid.voxelSize()[2]);
    const auto world = grid.map().applyMap(Vec3d(1, 2, 3)), back = grid.map().applyInverseMap(world);
    std::printf("world %.9g %.9g %.9g\n", world[0], world[1], world[2]);
    std::printf("back %.9g %.9g %.9g\n", back[0], back[1], back[2]);
    // its check of nodes wants some
    if (grid.isEmpty()) std::printf("checked empty\n");
    else std::printf("checked %d\n", int(tools::isValid(&grid, CheckMode::Full, true)));
    std::printf("checksum_full %d\n", int(grid.checksum().isFull()));
    std::printf("stats_apart %.3g\n", statsApart(grid));

    std::vector<Coord> voxels;
    const auto* leaf = grid.tree().template getFirstNode<0>();
    for (uint32_t i = 0; i < grid.tree().nodeCount(0); ++i, ++leaf)
        for (auto it = leaf->cbeginValueOn(); it; ++it) voxels.push_back(it.getCoord());
    out.put(uint64_t(voxels.size()));
    for (const auto& ijk : voxels) { out.put(ijk[0]); out.put(ijk[1]); out.put(ijk[2]); }
    auto acc = grid.getAccessor();
    for (const auto& ijk : points) {
        out.put(double(acc.getValue(ijk)));
        out.put(uint8_t(acc.isActive(ijk)));
    }
    if constexpr (std::is_same_v<BuildT, ValueOnIndex>) {
        std::printf("as_built %d\n", int(sameAsBuilt(grid, voxels)));
        for (uint32_t n = 0; n < grid.blindDataCount(); ++n) {
            const auto& meta = grid.blindMetaData(n);
            std::printf("blind %s %u %u %llu %d\n", meta.mName, unsigned(meta.mDataClass), unsigned(meta.mDataType),
                        (unsigned long long)meta.mValueCount, int(meta.isValid()));
            if (meta.mDataClass != GridBlindDataClass::ChannelArray) continue;
            uint64_t sum = 0, i = 0;
            auto add = [&](auto value) { sum += (++i % 1009) * uint64_t(value); };
            if (meta.mDataType == GridType::UInt8) {
                ChannelAccessor<uint8_t, ValueOnIndex> channel(grid, n);
                for (const auto& ijk : voxels) add(channel.getValue(ijk));
            } else if (meta.mDataType == GridType::UInt32) {
                ChannelAccessor<uint32_t, ValueOnIndex> channel(grid, n);
                for (const auto& ijk : voxels) add(channel.getValue(ijk));
            } else if (meta.mDataType == GridType::Float) {
                ChannelAccessor<float, ValueOnIndex> channel(grid, n);
                for (const auto& ijk : voxels) add(channel.getValue(ijk));
            }
            std::printf("channel %llu\n", (unsigned long long)sum);
        }
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
    try {
        auto handles = nanovdb::io::readGrids(argv[1]);
        for (auto& handle : handles)
            for (uint32_t n = 0; n < handle.gridCount(); ++n) {
                std::printf("grid %u\n", n);
                if (auto* grid = handle.grid<nanovdb::ValueOnIndex>(n)) report(*grid, points, out);
                else if (auto* grid = handle.grid<float>(n)) report(*grid, points, out);
                else if (auto* grid = handle.grid<uint8_t>(n)) report(*grid, points, out);
                else if (auto* grid = handle.grid<uint32_t>(n)) report(*grid, points, out);
                else return 3;
            }
    } catch (const std::exception& e) {
        std::printf("error %s\n", e.what());
        return 4;
    }
    return 0;
}
