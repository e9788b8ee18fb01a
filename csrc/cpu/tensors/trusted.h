// Which tensors hold a checked pattern that nothing outside can edit: the private ones of
// sparseq.formats.CSRPattern. Python names them when it has made them, and again before it frees
// them; whatever else comes to an op is copied and checked at every call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <vector>

namespace sparseq::tensors {

// What is trusted: the addresses of some tensors, their lengths, and what else was checked with
// them. The first address is that of a tensor that is never empty, so it belongs to one entry.
class Trusted {
 public:
  using Numbers = std::span<const int64_t>;

  bool has(Numbers entry) const {
    const std::shared_lock lock(mutex_);
    const auto known = entries_.find(entry.front());
    return known != entries_.end() && std::ranges::equal(known->second, entry);
  }
  void add(Numbers entry) {
    const std::unique_lock lock(mutex_);
    entries_[entry.front()].assign(entry.begin(), entry.end());
  }
  void remove(int64_t address) {
    const std::unique_lock lock(mutex_);
    entries_.erase(address);
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<int64_t, std::vector<int64_t>> entries_;
};

// Never destroyed: torch's threads outlive the statics of a library.
inline Trusted& trusted() {
  static auto* const entries = new Trusted;
  return *entries;
}

}  // namespace sparseq::tensors

// Called by sparseq/ops/_trust.py. They are no ops, whose callers must not be able to grant trust.
extern "C" {
[[gnu::used, gnu::visibility("default")]] inline void sparseq_trust(const int64_t* entry,
                                                                    int64_t count) {
  sparseq::tensors::trusted().add({entry, static_cast<size_t>(count)});
}

[[gnu::used, gnu::visibility("default")]] inline void sparseq_forget(int64_t address) {
  sparseq::tensors::trusted().remove(address);
}
}
