// cp.async: what it brings lands when its thread waits for it, and no sooner. From the moment it is
// asked for until then its target holds NaN.
#pragma once
#include "fibers.h"

namespace emulator {

void cp_async(uint32_t to, const void* from, int bytes, uint32_t read) {
  if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async copies 4, 8 or 16 bytes");
  if (read > uint32_t(bytes)) fail("cp.async reads more than it writes");
  if (uintptr_t(from) % bytes && read) fail("cp.async reads from where it is not aligned");
  char* target = shared(to, bytes);
  memset(target, 0xff, bytes);
  current->copies.push_back({target, static_cast<const char*>(from), bytes, int(read)});
}
void cp_async_commit() {
  current->copy_groups.push_back(std::move(current->copies));
  current->copies.clear();
}
void cp_async_wait(int left) {
  auto& groups = current->copy_groups;
  for (; groups.size() > size_t(left); groups.pop_front())
    for (const Copy& copy : groups.front()) {
      memcpy(copy.to, copy.from, copy.read);
      memset(copy.to + copy.read, 0, copy.bytes - copy.read);
    }
}

}  // namespace emulator
