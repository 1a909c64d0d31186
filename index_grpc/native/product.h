// Products of activations with a matrix, in registers or on the matrix unit, according to the matrix's format.
#pragma once

#include <algorithm>
#include <atomic>

#include "thread_pool.h"
#include "matrix.h"
#include "registers.h"
#include "tiles.h"

// in [num_rows, inputs] times a matrix → out [num_rows, outputs]. Strides are in floats, from row to row. Each row of
// `out` must have room for whole panels.
struct Operands {
  int num_rows;
  const float* in;
  int64_t in_stride;
  Finish how;
  float* out;
  int64_t out_stride;

  float* of_panel(int panel) const { return out + static_cast<int64_t>(panel) * (how == Finish::kGate ? kLanes : kPanel); }
};

class Products {
 public:
  explicit Products(ThreadPool& threads) : threads_(threads) {}

  void multiply(const Matrix& matrix, const Operands& rows) {
    if (rows.num_rows == 0) return;
    switch (matrix.format) {
      case Format::kFloat32:
        return in_registers<Float32Group>(matrix, rows);
      case Format::kBfloat16:
        return in_registers<Bfloat16Group>(matrix, rows);
      case Format::kInt8:
        return in_registers<Int8Group>(matrix, rows);
#if INDEX_LANES == 16
      case Format::kTiles:
        return in_tiles(matrix, rows);
#else
      default:
        return;
#endif
    }
  }

 private:
  // Calls do_panels(first, end) for shares of the panels, on all threads. If there are more panels than threads, the
  // shares get smaller towards the end, some even empty, so that all threads end at almost the same time.
  template <class DoPanels>
  void share_out(const Matrix& matrix, const DoPanels& do_panels) {
    const int64_t num_panels = matrix.num_panels, num_tasks = std::min(matrix.num_panels, 8 * threads_.size());
    const auto start = [&](int64_t task) {
      if (num_panels <= threads_.size()) return static_cast<int>(task);
      const int64_t left = num_tasks - task;
      return static_cast<int>(num_panels - num_panels * left * left / (num_tasks * num_tasks));
    };
    threads_.run(static_cast<int>(num_tasks), [&](int task) {
      if (start(task) < start(task + 1)) do_panels(start(task), start(task + 1));
    });
  }

  template <class Group>
  void in_registers(const Matrix& matrix, const Operands& rows) {
    share_out(matrix, [&](int first, int end) {
      for (int panel = first; panel < end; ++panel) {
        multiply_panel<Group>(rows.num_rows, rows.in, rows.in_stride, matrix.panel(panel), matrix.num_inputs, rows.how,
                              rows.of_panel(panel), rows.out_stride);
      }
    });
  }

#if INDEX_LANES == 16
  // A thread's own split rows. Each thread splits all rows itself: data that another core has just written is slow.
  struct Own {
    uint64_t number = 0;  // of the product for which the rows were split
    Buffer split;
  };

  static SplitRows split_once(Own& own, uint64_t number, const Matrix& matrix, const Operands& rows) {
    const SplitRows split(own.split, rows.num_rows, matrix.num_inputs);
    if (own.number != number) {
      for (int row = 0; row < rows.num_rows; ++row) split.fill(row, rows.in + row * rows.in_stride);
      asm volatile("" ::: "memory");  // the compiler does not see that tile loads read what was filled
      own.number = number;
    }
    return split;
  }

  void in_tiles(const Matrix& matrix, const Operands& rows) {
    static std::atomic<uint64_t> last_number{0};
    const uint64_t number = ++last_number;
    share_out(matrix, [&](int first, int end) {
      thread_local Own own;
      const SplitRows split = split_once(own, number, matrix, rows);
      const TilesInUse tiles(split.block_rows());
      for (int panel = first; panel < end; ++panel) {
        multiply_tiles(split, matrix.panel(panel), rows.how, rows.of_panel(panel), rows.out_stride);
      }
    });
  }
#endif

  ThreadPool& threads_;
};
