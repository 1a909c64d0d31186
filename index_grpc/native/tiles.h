// Products on the matrix unit of newer CPUs (AMX), as exact as float32.
//
// The unit multiplies tiles of bfloat16 and adds in float32. A float32 is the sum of three bfloat16, each with eight bits
// of its significand, so activations are split into such parts and the products of all parts with the weights are added
// up. A tile's rows do not depend on each other and groups of inputs are added in their order, so a row has the same bits
// in any batch.
#pragma once

#include "matrix.h"

#if INDEX_LANES == 16

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;  // 32 bfloat16
constexpr int64_t kTileBytes = kTileRows * kTileRowBytes;
constexpr int kActivationParts = 3;
static_assert(kGroup * 2 == kTileRowBytes && kTileRows == kLanes);

// Whether this process may use the unit. Linux requires that a process asks for permission before the first use.
inline bool tiles_are_there() {
  static const bool there = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    uint32_t a = 7, b = 0, c = 0, d = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const bool has_tiles = (d >> 24 & 1) != 0, has_bfloat16 = (d >> 22 & 1) != 0;
    return has_tiles && has_bfloat16 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return there;
}

constexpr int num_groups(int num_inputs) { return (num_inputs + kGroup - 1) / kGroup; }

// Returns the upper halves of 16 floats, as bfloat16.
ALWAYS_INLINE __m256i upper_halves(Vec value) {
  return _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(reinterpret_cast<Words>(value) >> 16));
}

ALWAYS_INLINE Vec first_part(Vec value) { return reinterpret_cast<Vec>(reinterpret_cast<Words>(value) & 0xffff0000u); }

// Rows of activations, split into parts: [blocks of rows, groups of inputs, parts, a tile of rows]. All blocks have the
// same number of rows, except for the last, whose tiles end with undefined rows.
class SplitRows {
 public:
  SplitRows(Buffer& buffer, int num_rows, int num_inputs)
      : num_rows_(num_rows),
        num_inputs_(num_inputs),
        num_blocks_((num_rows + kTileRows - 1) / kTileRows),
        block_rows_((num_rows + num_blocks_ - 1) / num_blocks_) {
    const size_t needed = num_blocks_ * num_groups(num_inputs) * kActivationParts * kTileBytes;
    if (needed > buffer.size()) buffer = Buffer(needed);
    data_ = buffer.as<char>();
  }

  int num_rows() const { return num_rows_; }
  int num_inputs() const { return num_inputs_; }
  int num_blocks() const { return num_blocks_; }
  int block_rows() const { return block_rows_; }
  char* tile(int block, int group, int part) const {
    const int64_t number = (static_cast<int64_t>(block) * num_groups(num_inputs_) + group) * kActivationParts + part;
    return data_ + number * kTileBytes;
  }

  // Splits a row of activations [num_inputs]; pads the last group with zeros.
  void fill(int row, const float* in) const {
    const int block = row / block_rows_, place = row % block_rows_;
    for (int input = 0; input < num_groups(num_inputs_) * kGroup; input += kLanes) {
      Vec rest = load_some(in + input, num_inputs_ - input);
      for (int part = 0; part < kActivationParts; ++part) {
        char* to = tile(block, input / kGroup, part) + place * kTileRowBytes + input % kGroup * 2;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), upper_halves(rest));
        rest -= first_part(rest);
      }
    }
  }

 private:
  int num_rows_, num_inputs_, num_blocks_, block_rows_;
  char* data_;
};

// Configures the calling thread's tiles while it lives: tiles 0 to 3 hold sums and 6 and 7 activations, `num_rows` rows
// each; 4 and 5 hold weights, one row for every two inputs.
class TilesInUse {
 public:
  explicit TilesInUse(int num_rows) {
    Configuration configuration;
    for (const int tile : {0, 1, 2, 3, 6, 7}) configuration.rows[tile] = static_cast<uint8_t>(num_rows);
    __asm__ volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ~TilesInUse() { _tile_release(); }

 private:
  struct Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
};

// Prefetches a share of two later tiles of weights: prefetching all at once would delay the loads that are needed now.
ALWAYS_INLINE void fetch_share(const char* tiles, int share) {
  constexpr int64_t kShares = 2 * kActivationParts, kBytes = 2 * kTileBytes;
  for (int64_t at = kBytes * share / kShares / 64 * 64; at < kBytes * (share + 1) / kShares / 64 * 64; at += 64) {
    __builtin_prefetch(tiles + kAheadBytes + at);
  }
}

// Multiplies one or two blocks of rows by a panel: [groups, low and high tile]. `sums` has those of the first block,
// low and high, then those of the second.
template <bool kTwo>
ALWAYS_INLINE void multiply_blocks(const SplitRows& rows, int block, const char* panel,
                                   float (&sums)[4][kTileRows * kLanes]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int group = 0; group < num_groups(rows.num_inputs()); ++group, panel += 2 * kTileBytes) {
    _tile_loadd(4, panel, kTileRowBytes);
    _tile_loadd(5, panel + kTileBytes, kTileRowBytes);
    for (int part = 0; part < kActivationParts; ++part) {
      _tile_loadd(6, rows.tile(block, group, part), kTileRowBytes);
      fetch_share(panel, 2 * part);
      _tile_dpbf16ps(0, 6, 4);
      fetch_share(panel, 2 * part + 1);
      _tile_dpbf16ps(1, 6, 5);
      if (kTwo) {
        _tile_loadd(7, rows.tile(block + 1, group, part), kTileRowBytes);
        _tile_dpbf16ps(2, 7, 4);
        _tile_dpbf16ps(3, 7, 5);
      }
    }
  }
  _tile_stored(0, sums[0], kTileRowBytes);
  _tile_stored(1, sums[1], kTileRowBytes);
  _tile_stored(2, sums[2], kTileRowBytes);
  _tile_stored(3, sums[3], kTileRowBytes);
}

// Multiplies all rows by a panel, on a thread that has a TilesInUse.
inline void multiply_tiles(const SplitRows& rows, const char* panel, Finish how, float* out, int64_t out_stride) {
  alignas(64) float sums[4][kTileRows * kLanes];
  for (int block = 0; block < rows.num_blocks(); block += 2) {
    if (block + 1 < rows.num_blocks()) {
      multiply_blocks<true>(rows, block, panel, sums);
    } else {
      multiply_blocks<false>(rows, block, panel, sums);
    }
    const int first = block * rows.block_rows(), end = std::min(first + 2 * rows.block_rows(), rows.num_rows());
    for (int row = first; row < end; ++row) {
      const int second = row - first >= rows.block_rows(), at = (row - first) % rows.block_rows() * kLanes;
      finish(how, load(sums[2 * second] + at), load(sums[2 * second + 1] + at), out + row * out_stride);
    }
  }
}

#else

inline bool tiles_are_there() { return false; }

#endif
