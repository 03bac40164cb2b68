#pragma once

namespace longshelf::router {

// How this process's allocator deals with large blocks, so that what a flood of bodies took is the system's again
// afterwards. Once, at the start of the process: by default the allocator keeps them after the first one was freed.
void KeepHeapSmall();

// Gives free pages of the heap back. Takes milliseconds, so not on the loop's thread.
void TrimHeap();

}  // namespace longshelf::router
