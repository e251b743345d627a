// llama.cpp, told what to do by benchmark_cpu.py: the commands are those of worker_loop.py.
//
//   llama_worker MODEL.gguf THREADS ROWS CAPACITY
//
// Contexts are llama-bench's defaults: FP16 cache, micro-batches of 512, Flash Attention where it fits. Every
// row has a cache of its own (kv_unified is off), so that rows with equal beginnings share no memory.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "llama.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMicroBatch = 512;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void fail(std::string const& what) {
  std::cerr << "llama_worker: " << what << std::endl;
  std::exit(1);
}

void answer(double seconds) {
  std::printf("= %.9f\n", seconds);
  std::fflush(stdout);
}

class Worker {
 public:
  Worker(char const* path, int threads, int rows, int capacity) {
    llama_log_set([](ggml_log_level, char const*, void*) {}, nullptr);
    llama_backend_init();
    model_ = llama_model_load_from_file(path, llama_model_default_params());
    if (model_ == nullptr) fail("cannot load the model");
    vocabulary_ = llama_vocab_n_tokens(llama_model_get_vocab(model_));
    llama_context_params params = llama_context_default_params();
    // A row's share is rounded up to 256 cells.
    params.n_ctx = static_cast<uint32_t>(rows * ((capacity + 255) / 256 * 256));
    params.n_batch = kMicroBatch;
    params.n_ubatch = kMicroBatch;
    params.n_seq_max = static_cast<uint32_t>(rows);
    params.n_threads = params.n_threads_batch = threads;
    params.kv_unified = false;
    context_ = llama_init_from_model(model_, params);
    if (context_ == nullptr) fail("cannot make a context");
    batch_ = llama_batch_init(kMicroBatch, 0, 1);
  }

  // Reads random tokens on each row; only the last token of a row gives logits.
  double prefill(int tokens, int rows) {
    std::vector<llama_token> const ids = random_ids(tokens * rows);
    llama_memory_clear(memory(), false);
    auto const start = Clock::now();
    for (int row = 0; row < rows; ++row) {
      for (int at = 0; at < tokens; ++at) {
        add(ids[row * tokens + at], at, row, at + 1 == tokens);
        if (batch_.n_tokens == kMicroBatch) run();
      }
    }
    run();
    return seconds_since(start);
  }

  // Seconds of a step of one token a row, after `depth` tokens.
  double decode(int depth, int steps, int rows) {
    seek(depth, rows);
    std::vector<llama_token> const ids = random_ids(steps * rows);
    auto const start = Clock::now();
    for (int step = 0; step < steps; ++step) {
      for (int row = 0; row < rows; ++row) add(ids[step * rows + row], depth + step, row, true);
      run();
    }
    return seconds_since(start) / steps;
  }

  double logits(std::string const& ids_path, std::string const& output_path) {
    std::ifstream input(ids_path, std::ios::binary);
    std::ofstream output(output_path, std::ios::binary);
    llama_memory_clear(memory(), false);
    auto const start = Clock::now();
    int32_t id = 0;
    for (int at = 0; input.read(reinterpret_cast<char*>(&id), sizeof(id)); ++at) {
      add(id, at, 0, true);
      if (batch_.n_tokens == kMicroBatch) write_logits(output);
    }
    write_logits(output);
    if (!output) fail("cannot write logits");
    return seconds_since(start);
  }

 private:
  llama_memory_t memory() const { return llama_get_memory(context_); }

  std::vector<llama_token> random_ids(int count) {
    std::uniform_int_distribution<llama_token> any(0, vocabulary_ - 1);
    std::vector<llama_token> ids(static_cast<size_t>(count));
    std::generate(ids.begin(), ids.end(), [&] { return any(random_); });
    return ids;
  }

  void add(llama_token id, int position, int row, bool wants_logits) {
    int const at = batch_.n_tokens++;
    batch_.token[at] = id;
    batch_.pos[at] = position;
    batch_.n_seq_id[at] = 1;
    batch_.seq_id[at][0] = row;
    batch_.logits[at] = wants_logits ? 1 : 0;
  }

  void run() {
    if (batch_.n_tokens == 0) return;
    if (llama_decode(context_, batch_) != 0) fail("llama_decode failed");
    llama_synchronize(context_);
    batch_.n_tokens = 0;
  }

  void write_logits(std::ofstream& output) {
    int const tokens = batch_.n_tokens;
    run();
    for (int at = 0; at < tokens; ++at) {
      auto const* row = reinterpret_cast<char const*>(llama_get_logits_ith(context_, at));
      output.write(row, static_cast<std::streamsize>(sizeof(float)) * vocabulary_);
    }
  }

  // Row 0 is read, where it does not hold enough; the others get copies of it.
  void seek(int depth, int rows) {
    int const held = llama_memory_seq_pos_max(memory(), 0) + 1;
    if (held < depth) prefill(depth, 1);
    if (!llama_memory_seq_rm(memory(), 0, depth, -1)) fail("cannot go back");
    for (int row = 1; row < rows; ++row) {
      llama_memory_seq_rm(memory(), row, -1, -1);
      llama_memory_seq_cp(memory(), 0, row, -1, -1);
    }
    // NOTES: copies between rows are made at the next call; a step that is not timed takes them.
    for (int row = 0; row < rows; ++row) add(0, depth, row, true);
    run();
    for (int row = 0; row < rows; ++row) llama_memory_seq_rm(memory(), row, depth, -1);
  }

  llama_model* model_ = nullptr;
  llama_context* context_ = nullptr;
  llama_batch batch_{};
  int vocabulary_ = 0;
  std::mt19937 random_{0};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) fail("usage: llama_worker MODEL THREADS ROWS CAPACITY");
  auto const start = Clock::now();
  Worker worker(argv[1], std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]));
  worker.prefill(1, 1);
  answer(seconds_since(start));
  std::string verb;
  while (std::cin >> verb) {
    if (verb == "logits") {
      std::string ids, output;
      std::cin >> ids >> output;
      answer(worker.logits(ids, output));
      continue;
    }
    int first = 0, second = 0, third = 0;
    std::cin >> first >> second;
    if (verb == "prefill") {
      answer(worker.prefill(first, second));
    } else if (verb == "decode" && std::cin >> third) {
      answer(worker.decode(first, second, third));
    } else {
      fail("no such command: " + verb);
    }
  }
  return 0;
}
