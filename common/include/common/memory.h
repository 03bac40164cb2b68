#pragma once

namespace longshelf {

// Memory of buffers up to 32 MiB that are freed stays with the process, up to 256 MiB of it, for those that come next.
// Without, glibc gives such a buffer back to the kernel, which hands out and clears its pages again: that takes longer
// than to fill them. Call once, before threads are started.
void KeepFreedMemory();

}  // namespace longshelf
