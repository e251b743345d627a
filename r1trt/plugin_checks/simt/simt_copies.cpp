#include <cstring>

#include "simt_block.h"

namespace simt {
namespace {

SIMT_UNSANITIZED void land(Copy const& copy) {
  // NOTES: the target is written through memcpy, which the sanitizers see as this thread's access.
  auto* target = static_cast<char*>(copy.target);
  memcpy(target, copy.source, static_cast<size_t>(copy.valid));
  memset(target + copy.valid, 0, static_cast<size_t>(copy.bytes - copy.valid));
}

}  // namespace

SIMT_UNSANITIZED void copyAsync(void* target, void const* source, int bytes, int valid) {
  Thread& thread = self();
  auto misaligned = [&](void const* p) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<unsigned>(bytes) != 0;
  };
  if (misaligned(target) || misaligned(source)) fail("cp.async: misaligned address");
  if (thread.copies == kMaxPendingCopies) fail("cp.async: too many copies under way");
  Copy copy{target, source, bytes, valid, thread.copy_group};
  CopyLanding landing = configuration().copy_landing;
  bool now = landing == CopyLanding::kEager || (landing == CopyLanding::kRandom && randomBelow(2) == 0);
  if (now) land(copy);
  // It stays pending in any case, so that a thread that never waits is found.
  if (now) copy.bytes = copy.valid = 0;
  thread.pending[thread.copies++] = copy;
}

SIMT_UNSANITIZED void copyCommit() {
  ++self().copy_group;
}

SIMT_UNSANITIZED void copyWait(int groups_left) {
  Thread& thread = self();
  int kept = 0;
  for (int i = 0; i < thread.copies; ++i) {
    Copy copy = thread.pending[i];
    if (copy.group >= thread.copy_group - groups_left) {
      thread.pending[kept++] = copy;
    } else if (copy.bytes != 0) {
      land(copy);
    }
  }
  thread.copies = kept;
}

}  // namespace simt
