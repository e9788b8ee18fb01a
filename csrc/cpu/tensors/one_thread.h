// A region in which torch and what it calls see one thread, and so compute as if there were no
// others: each thread of an OpenMP region has a number of threads of its own for what it starts.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace sparseq::tensors {

// The OpenMP functions of the library that torch itself is linked to; null where it has none.
struct OpenMp {
  using Get = int (*)();
  using Set = void (*)(int);
  Get get = nullptr;
  Set set = nullptr;

  OpenMp() {
    Dl_info torch;
    if (dladdr(reinterpret_cast<void*>(&aoti_torch_get_dtype), &torch) == 0) return;
    void* library = dlopen(torch.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return;
    get = reinterpret_cast<Get>(dlsym(library, "omp_get_max_threads"));
    set = reinterpret_cast<Set>(dlsym(library, "omp_set_num_threads"));
  }

  static const OpenMp& of_torch() {
    static const OpenMp functions;
    return functions;
  }
};

class OneThread {
 public:
  OneThread() : openmp_(OpenMp::of_torch()) {
    if (openmp_.get == nullptr || openmp_.set == nullptr) return;
    before_ = openmp_.get();
    openmp_.set(1);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
  ~OneThread() {
    if (before_ > 0) openmp_.set(before_);
  }

 private:
  const OpenMp& openmp_;
  int before_ = 0;
};

}  // namespace sparseq::tensors
