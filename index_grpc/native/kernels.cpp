// The C functions that Python calls; `library.py` declares them for Python.

#include <exception>
#include <vector>

#include "draw.h"
#include "llama.h"
#include "packing.h"

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// The width, in floats, of the registers for which this library was compiled.
EXPORTED int index_lanes() { return kLanes; }

// The version of these functions' signatures; it must be the same in `library.py`.
EXPORTED int index_interface() { return 2; }

// Sizes that must be the same in `library.py`.
EXPORTED int index_block_tokens() { return kBlockTokens; }
EXPORTED int index_most_queries() { return kMostQueries; }

// The number of floats from one row of logits to the next.
EXPORTED int64_t index_logits_stride(int vocab_size) { return (vocab_size + kPanel - 1) / kPanel * kPanel; }

// Whether this process can multiply the tiles format; the first call asks the system for permission.
EXPORTED int index_has_tiles() { return tiles_are_there(); }

// Returns null if there is not enough memory or if threads cannot be started.
EXPORTED Llama* index_create(const Shape* shape, int num_threads) {
  try {
    return new Llama(*shape, num_threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

EXPORTED void index_destroy(Llama* model) { delete model; }

EXPORTED void index_set_embedding(Llama* model, const void* data, int is_bfloat16, int num_rows, int width) {
  model->set_embedding({data, is_bfloat16 != 0, num_rows, width});
}

EXPORTED void index_set_rotary(Llama* model, const float* cosine, const float* sine) { model->set_rotary(cosine, sine); }

// Copies a norm's weight. `number` is 0 for the norm before attention, 1 for the one before the feed-forward part; a
// `layer` of -1 means the model's final norm. Returns 0 if there is not enough memory.
EXPORTED int index_set_norm(Llama* model, int layer, int number, const float* weight, int size) {
  try {
    std::vector<float>& norm = layer < 0     ? model->final_norm()
                               : number == 0 ? model->layer(layer).input_norm
                                             : model->layer(layer).post_attention_norm;
    norm.assign(weight, weight + size);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

// Copies a matrix's weight. `number` is 0 for qkv, 1 for output, 2 for gate_up, 3 for down; a `layer` of -1 means the
// head. Returns 0 if there is not enough memory.
EXPORTED int index_set_matrix(Llama* model, int layer, int number, const void* data, int is_bfloat16, int num_outputs,
                     int num_inputs, int format) {
  try {
    Matrix packed = pack(model->threads(), {data, is_bfloat16 != 0, num_outputs, num_inputs}, static_cast<Format>(format),
                         layer >= 0 && number == 2);
    if (layer < 0) {
      model->head() = std::move(packed);
    } else {
      Layer& found = model->layer(layer);
      Matrix* const matrices[] = {&found.qkv, &found.output, &found.gate_up, &found.down};
      *matrices[number] = std::move(packed);
    }
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

// See Llama::forward. A span is three numbers: its number of blocks, its first position and its number of tokens.
// `blocks` has the blocks of all spans in order. Returns 0 if there is not enough memory.
EXPORTED int index_forward(Llama* model, const int32_t* token_ids, float* const* blocks, const int32_t* spans,
                           int num_spans, const int32_t* sampled, int num_sampled, float* logits,
                           int64_t logits_stride) {
  try {
    std::vector<Span> placed;
    placed.reserve(num_spans);
    for (const int32_t* span = spans; span < spans + 3 * num_spans; span += 3) {
      placed.push_back({blocks, span[1], span[2]});
      blocks += span[0];
    }
    model->forward(token_ids, placed.data(), num_spans, sampled, num_sampled, logits, logits_stride);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

// See draw: draws a token for each of `num_rows` rows. Returns 0 if there is not enough memory.
EXPORTED int index_draw(Llama* model, const SlotTable* table, const DrawnRows* rows, int num_rows, int vocab_size,
                        int32_t* ids) {
  try {
    model->threads().run(num_rows, [&](int row) { ids[row] = draw(*rows, row, *table, vocab_size); });
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

// Reads and adds `num_bytes` of floats with all threads, as fast as memory allows. Returns 0 if memory runs out.
EXPORTED int index_read(Llama* model, const float* data, int64_t num_bytes, float* sum_of_all) {
  try {
    const int num_tasks = 8 * model->threads().size();
    std::vector<float> totals(num_tasks);
    const int64_t share = num_bytes / num_tasks / static_cast<int64_t>(4 * sizeof(Vec));
    model->threads().run(num_tasks, [&](int task) {
      const Vec* from = reinterpret_cast<const Vec*>(data) + task * share * 4;
      Vec total[4] = {};
      for (int64_t i = 0; i < share * 4; i += 4) {
        fetch_ahead<4 * sizeof(Vec)>(reinterpret_cast<const char*>(from + i));
        for (int part = 0; part < 4; ++part) total[part] += from[i + part];
      }
      totals[task] = sum(total[0] + total[1] + total[2] + total[3]);
    });
    *sum_of_all = 0.0f;
    for (const float part : totals) *sum_of_all += part;
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

}
