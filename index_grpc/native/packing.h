// Packs weights from the rows of a checkpoint into panels.
#pragma once

#include <cmath>

#include "thread_pool.h"
#include "matrix.h"
#include "registers.h"
#include "tiles.h"

// A weight [num_outputs, num_inputs], row after row, float32 or bfloat16.
struct Rows {
  const void* data;
  bool is_bfloat16;
  int num_outputs, num_inputs;

  float at(int output, int input) const {
    const int64_t place = static_cast<int64_t>(output) * num_inputs + input;
    return is_bfloat16 ? from_bfloat16(static_cast<const uint16_t*>(data)[place])
                       : static_cast<const float*>(data)[place];
  }
};

// Decides which output is in which lane of a panel. A gated weight is two weights, one after the other: the first one's
// outputs are low and the second one's are high, so that each is in the same lane as its gate.
struct Order {
  const Rows& rows;
  bool gated;

  int num_panels() const {
    const int width = gated ? kLanes : kPanel, count = gated ? rows.num_outputs / 2 : rows.num_outputs;
    return (count + width - 1) / width;
  }
  // Returns -1 for lanes past the last output.
  int output(int panel, int lane) const {
    if (!gated) return panel * kPanel + lane < rows.num_outputs ? panel * kPanel + lane : -1;
    const int half = rows.num_outputs / 2, place = panel * kLanes + lane % kLanes;
    return place < half ? place + (lane < kLanes ? 0 : half) : -1;
  }
  float weight(int panel, int lane, int input) const {
    const int found = output(panel, lane);
    return found < 0 ? 0.0f : rows.at(found, input);
  }
};

inline void pack_panel_float32(const Order& order, int panel, char* to) {
  float* out = reinterpret_cast<float*>(to);
  for (int lane = 0; lane < kPanel; ++lane) {
    for (int input = 0; input < order.rows.num_inputs; ++input) {
      out[static_cast<int64_t>(input) * kPanel + lane] = order.weight(panel, lane, input);
    }
  }
}

inline void pack_panel_bfloat16(const Order& order, int panel, char* to) {
  uint16_t* out = reinterpret_cast<uint16_t*>(to);  // words of a low and a high half, little-endian
  for (int lane = 0; lane < kPanel; ++lane) {
    const int place = lane % kLanes * 2 + lane / kLanes;
    for (int input = 0; input < order.rows.num_inputs; ++input) {
      out[static_cast<int64_t>(input) * kPanel + place] = word_of(order.weight(panel, lane, input)) >> 16;
    }
  }
}

// Returns the smallest bfloat16 that is not below a value.
inline uint16_t bfloat16_not_below(float value) {
  const uint32_t word = word_of(value);
  return static_cast<uint16_t>((word >> 16) + ((word & 0xffff) != 0));
}

inline void pack_panel_int8(const Order& order, int panel, char* to) {
  const int num_inputs = order.rows.num_inputs;
  for (int first = 0; first < num_inputs; first += kGroup) {
    const int end = std::min(first + kGroup, num_inputs);
    uint16_t* scales = reinterpret_cast<uint16_t*>(to);
    int8_t* weights = reinterpret_cast<int8_t*>(to + Int8Group::kHeadBytes);
    for (int lane = 0; lane < kPanel; ++lane) {
      float most = 0.0f;
      for (int input = first; input < end; ++input) most = std::max(most, std::fabs(order.weight(panel, lane, input)));
      const uint16_t scale = bfloat16_not_below(most / 127.0f);
      const float inverse = scale == 0 ? 0.0f : 1.0f / from_bfloat16(scale);
      scales[lane % kLanes * 2 + lane / kLanes] = scale;
      for (int input = first; input < end; ++input) {
        const float whole = std::nearbyint(order.weight(panel, lane, input) * inverse);
        weights[(input - first) * kPanel + lane] = static_cast<int8_t>(std::clamp(whole, -127.0f, 127.0f));
      }
    }
    to += Int8Group::kHeadBytes + (end - first) * Int8Group::kInputBytes;
  }
}

#if INDEX_LANES == 16
inline void pack_panel_tiles(const Order& order, int panel, char* to) {
  const int num_inputs = order.rows.num_inputs;
  for (int input = 0; input < num_inputs; ++input) {
    char* row = to + input / kGroup * 2 * kTileBytes + input % kGroup / 2 * kTileRowBytes;
    for (int lane = 0; lane < kPanel; ++lane) {
      uint16_t* pairs = reinterpret_cast<uint16_t*>(row + lane / kLanes * kTileBytes);
      pairs[lane % kLanes * 2 + input % 2] = word_of(order.weight(panel, lane, input)) >> 16;
    }
  }
}
#endif

struct Layout {
  int64_t panel_bytes;
  void (*pack_panel)(const Order&, int, char*);
};

inline Layout layout_of(Format format, int num_inputs) {
  switch (format) {
    case Format::kFloat32:
      return {panel_bytes<Float32Group>(num_inputs), pack_panel_float32};
    case Format::kBfloat16:
      return {panel_bytes<Bfloat16Group>(num_inputs), pack_panel_bfloat16};
#if INDEX_LANES == 16
    case Format::kTiles:
      return {num_groups(num_inputs) * 2 * kTileBytes, pack_panel_tiles};
#endif
    default:
      return {panel_bytes<Int8Group>(num_inputs), pack_panel_int8};
  }
}

inline Matrix pack(ThreadPool& threads, const Rows& rows, Format format, bool gated) {
  const Order order{rows, gated};
  Matrix matrix;
  matrix.format = format;
  matrix.num_inputs = rows.num_inputs;
  matrix.num_panels = order.num_panels();
  const Layout layout = layout_of(format, rows.num_inputs);
  matrix.panel_bytes = layout.panel_bytes;
  matrix.data = Buffer(matrix.panel_bytes * matrix.num_panels);
  threads.run(matrix.num_panels, [&](int panel) { layout.pack_panel(order, panel, matrix.panel(panel)); });
  return matrix;
}
