"""Wrong versions of the CUDA kernels: each changes one text, which must occur exactly once, in a file of csrc/cuda."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """What is broken, where, and the tests that must see it (an argument of pytest -k, or a file)."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    sanitize: bool = False  # only AddressSanitizer can see it


FPS, KNN, BALL = "test_fps.py", "test_neighbors.py", "test_neighbors.py"
CNMS, CHAMFER, PAIRS, SEGMENTS, OFFSETS = (
    "test_cnms.py",
    "test_chamfer.py",
    "test_pairs.py",
    "test_segments.py",
    "test_offsets.py",
)

MUTANTS = [
    # boxes of points
    Mutant("bounds: no barrier", "boxes.cuh", "part[threadIdx.x / warp] = box;\n  __syncthreads();",
           "part[threadIdx.x / warp] = box;", FPS),
    Mutant("boxes: last point left out", "boxes.cuh", "if (j < below && level == 0)", "if (j + 1 < below && level == 0)", KNN),
    Mutant("boxes: one beyond the level below", "boxes.cuh", "} else if (j < below) {", "} else if (j <= below) {", KNN, sanitize=True),
    Mutant("boxes: shuffles leave out half", "boxes.cuh", "for (int offset = warp / 2; offset; offset /= 2) {\n    T lo[3]",
           "for (int offset = warp / 4; offset; offset /= 2) {\n    T lo[3]", KNN),
    Mutant("points: read by the wrong lane", "device.cuh", "const int64_t from = __shfl_sync(all_lanes, row, mine / 3);",
           "const int64_t from = __shfl_sync(all_lanes, row, mine / 4);", KNN),
    Mutant("points: lanes that are missing", "boxes.cuh", "load_points(points, used ? i : -1, stride, x);\n    int64_t",
           "if (used) load_points(points, used ? i : -1, stride, x);\n    int64_t", KNN),
    Mutant("points: 32-bit offset", "device.cuh", "points[from * stride + mine % 3]", "points[int32_t(from * stride + mine % 3)]", OFFSETS),
    Mutant("keys: padding sorts first", "boxes.cuh", "int64_t key = used ? 0 : last_key;", "int64_t key = 0;", FPS),
    Mutant("slots: one point of padding", "boxes.cuh", "slot < event_size(lengths, event, rows);",
           "slot <= event_size(lengths, event, rows);", FPS),
    Mutant("walk: last box of 1024 left out", "boxes.cuh", "i1 < n1 && enter(1, i1)", "i1 < max(int64_t(1), n1 - 1) && enter(1, i1)", KNN),
    Mutant("walk: last box of 32768 left out", "boxes.cuh", "i2 < n2 && enter(2, i2)", "i2 < max(int64_t(1), n2 - 1) && enter(2, i2)", KNN),
    Mutant("slots: no loop over the grid", "boxes.cuh",
           "for (int64_t i = thread_id(); i < batch * slots; i += thread_count()) {",
           "for (int64_t i = thread_id(); i < batch * slots; i += batch * slots) {", FPS),
    Mutant("count: whole boxes count double", "boxes.cuh", "count += left < width ? left : width;  // the whole block is inside\n        return false;",
           "count += left < width ? left : width;\n        return true;", BALL),
    Mutant("count: shuffles leave out half", "boxes.cuh", "for (int offset = warp / 2; offset; offset /= 2) count +=",
           "for (int offset = warp / 4; offset; offset /= 2) count +=", BALL),
    Mutant("count: 32-bit offset of the query", "boxes.cuh", "const T q[3] = {queries[i * stride],",
           "const T q[3] = {queries[int32_t(i * stride)],", OFFSETS),
    # farthest point sampling
    Mutant("fps: no barrier before the reduction", "fps.cu", "part_index[group] = best_index;\n    }\n    __syncthreads();",
           "part_index[group] = best_index;\n    }", FPS),
    Mutant("fps: no barrier after the reduction", "fps.cu", "    __syncthreads();\n    chosen = next;", "    chosen = next;", FPS),
    Mutant("fps: ties to the highest index", "fps.cu", "other_index < index)", "other_index > index)", FPS),
    Mutant("fps: wrong shuffle offset", "fps.cu", "for (int offset = warp / 2; offset; offset /= 2) {",
           "for (int offset = warp / 2; offset > 1; offset /= 2) {", FPS),
    Mutant("fps: one -1 missing", "fps.cu", "int64_t i = count + threadIdx.x;", "int64_t i = count + 1 + threadIdx.x;", FPS),
    Mutant("fps: last point of a cloud left out", "fps.cu", "if (slot < n) {\n          d = distance[slot];",
           "if (slot + 1 < n) {\n          d = distance[slot];", FPS),
    Mutant("fps: mask of half a warp", "fps.cu", "__ballot_sync(all_lanes, touched)", "__ballot_sync(0xffffu, touched)", FPS),
    # k nearest neighbours and balls
    Mutant("knn: ties to the highest index", "neighbors.cu", "uint64_t(a_index) < uint64_t(b_index)", "uint64_t(a_index) > uint64_t(b_index)", KNN),
    Mutant("knn: list shifted by two", "neighbors.cu", "__shfl_up_sync(all_lanes, distance, 1)", "__shfl_up_sync(all_lanes, distance, 2)", KNN),
    Mutant("knn: no __syncwarp after the shift", "neighbors.cu",
           "        indices[j] = from_index;\n      }\n      __syncwarp();", "        indices[j] = from_index;\n      }", KNN),
    Mutant("knn: no __syncwarp within the shift", "neighbors.cu",
           "const int64_t from_index = moves ? indices[j - 1] : 0;\n      __syncwarp();", "const int64_t from_index = moves ? indices[j - 1] : 0;", KNN),
    Mutant("knn: boxes at an equal distance are skipped", "neighbors.cu",
           "return !(level == 1 && block == seed) && !(gap(q, view.box(level, event, block)) > worst);",
           "return !(level == 1 && block == seed) && gap(q, view.box(level, event, block)) < worst;", KNN),
    Mutant("ball: one -1 missing", "neighbors.cu", "int64_t j = found + lane;", "int64_t j = found + 1 + lane;", BALL),
    Mutant("ball: own hit counts for the place", "neighbors.cu", "__popc(hits & ((1u << lane) - 1))", "__popc(hits & ((2u << lane) - 1))", BALL),
    Mutant("ball: hit beyond the row", "neighbors.cu", "if (hit && place < k) row[place] = slot;", "if (hit && place <= k) row[place] = slot;", BALL),
    # C-NMS
    Mutant("cnms: ticket without atomicAdd", "cnms.cu", "ticket = atomicAdd(drawn, 1ull);", "ticket = (*drawn)++;", CNMS),
    Mutant("cnms: does not wait", "cnms.cu", "if (stays && waits) {", "if (false) {", CNMS),
    Mutant("cnms: tickets from the lowest priority", "cnms.cu", "keys[event * view.rows + rank]", "keys[event * view.rows + n - 1 - rank]", CNMS),
    Mutant("cnms: ties to the highest index", "cnms.cu", "count[other] == own && other < point", "count[other] == own && other > point", CNMS),
    Mutant("cnms: states that are not volatile", "cnms.cu", "if (lane == 0) states[point] =", "if (lane == 0) const_cast<int32_t*>(states)[point] =", CNMS),
    Mutant("cnms: no barrier after counting", "cnms.cu", "in_warp[group] = __popc(mask);\n    __syncthreads();", "in_warp[group] = __popc(mask);", CNMS),
    Mutant("cnms: no barrier before the sum", "cnms.cu", "index[event * rows + place] = i;\n    __syncthreads();", "index[event * rows + place] = i;", CNMS),
    Mutant("cnms: no barrier after the sum", "cnms.cu", "written += in_warp[g];\n    __syncthreads();", "written += in_warp[g];", CNMS),
    Mutant("cnms: one -1 missing", "cnms.cu", "int64_t i = written + threadIdx.x; i < rows;", "int64_t i = written + threadIdx.x; i + 1 < rows;", CNMS),
    # chamfer distance
    Mutant("chamfer: ties to the highest index", "chamfer.cu", "if (sum < best) {", "if (sum <= best) {", CHAMFER),
    Mutant("chamfer: 0 instead of -1", "chamfer.cu", "used ? nearest : -1;", "used ? nearest : 0;", CHAMFER),
    Mutant("chamfer: no loop over the grid", "chamfer.cu",
           "i += thread_count()) {\n    const int64_t event = i / rx, ny", "i += batch * rx) {\n    const int64_t event = i / rx, ny", CHAMFER),
    Mutant("chamfer: last partner left out", "chamfer.cu", "int64_t m = 0; m < ry; ++m", "int64_t m = 0; m + 1 < ry; ++m", CHAMFER),
    Mutant("chamfer: 32-bit offset of the event", "chamfer.cu", "const T* others = y + event * ry * dims;", "const T* others = y + int32_t(event * ry * dims);", OFFSETS),
    # pairs
    Mutant("pairs: row and column swapped", "nodes.cuh", "row += w * a;", "row += w * b;", PAIRS),
    Mutant("pairs: one too far in a row", "nodes.cuh", "(b - a - 1);", "(b - a);", PAIRS),
    Mutant("pairs: 32-bit offset", "nodes.cuh", "const int64_t p = (above", "const int32_t p = (above", OFFSETS),
    Mutant("pairs: no loop over the grid", "nodes.cuh", "node < nodes; node += warps", "node < nodes; node += nodes", PAIRS),
    Mutant("pairs: event of the first node", "nodes.cuh", "if (start[middle] <= at)", "if (start[middle] < at)", PAIRS),
    Mutant("mix: no barrier before the products", "tile.cuh", "      fresh = false;\n      __syncthreads();", "      fresh = false;", PAIRS),
    Mutant("mix: no barrier before the next tile", "tile.cuh", "      __syncthreads();  // what is overwritten now has been used\n", "", PAIRS),
    Mutant("mix: no barrier after the products", "tile.cuh", "    __syncthreads();  // the products take the place of the rows\n", "", PAIRS),
    Mutant("mix: last row of a tile left out", "tile.cuh", "return r < height && first + k", "return r + 1 < height && first + k", PAIRS),
    Mutant("mix: matrices are not read again", "tile.cuh", "if (fresh || plan.inner_chunks > 1)", "if (fresh)", PAIRS),
    Mutant("mix: no barrier between tiles of the gradient", "outer.cuh", "    __syncthreads();  // the tile before has been used\n", "", PAIRS),
    Mutant("mix: partial sums without a barrier", "outer.cuh", "shares[threadIdx.x] = share;\n  __syncthreads();", "shares[threadIdx.x] = share;", PAIRS),
    # segments
    Mutant("segments: NaN is dropped", "segments.cu", " || value != value", "", SEGMENTS),
    Mutant("segments: ties do not share", "segments.cu", "grad[k] / T(ties > 0 ? ties : 1)", "grad[k]", SEGMENTS),
    Mutant("segments: last row left out", "segments.cu", "int64_t r = run.first; r < run.last; ++r) {\n      const T value", "int64_t r = run.first; r < run.last - 1; ++r) {\n      const T value", SEGMENTS),
    Mutant("segments: no loop over the grid", "segments.cu", "k < strips * groups; k += thread_count() / warp", "k < strips * groups; k += strips * groups", SEGMENTS),
    Mutant("segments: last strip of channels left out", "segments.cu", "groups = (channels + warp - 1) / warp;", "groups = channels / warp;", SEGMENTS),
    Mutant("segments: segment of the next row", "segments.cu", "ptr[segment + 1] <= row) ++segment;", "ptr[segment + 1] <= row + 1) ++segment;", SEGMENTS),
    Mutant("segments: 32-bit offset", "segments.cu", "const T value = x[r * channels + c];", "const T value = x[int32_t(r * channels + c)];", OFFSETS),
    Mutant("segments: ends are not clamped", "segments.cu", "last(clamped(ptr[segment + 1], rows))", "last(ptr[segment + 1])", SEGMENTS, sanitize=True),
]  # fmt: skip
