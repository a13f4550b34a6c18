import Glibc

/// Calls `body` with a copy of `bytes` that ends where a page begins that nobody may read: one byte too far is a crash.
func withGuardedBytes<Result: ~Copyable>(
    _ bytes: some Collection<UInt8>, _ body: (UnsafeRawBufferPointer) throws -> Result
) rethrows -> Result {
    let page = Int(getpagesize())
    let size = (bytes.count + page - 1) / page * page
    let mapping = mmap(nil, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let mapping, mapping != MAP_FAILED, mprotect(mapping + size, page, PROT_NONE) == 0 else {
        fatalError("no memory for a test")
    }
    defer { munmap(mapping, size + page) }
    let buffer = UnsafeMutableRawBufferPointer(start: mapping + size - bytes.count, count: bytes.count)
    buffer.copyBytes(from: bytes)
    return try body(UnsafeRawBufferPointer(buffer))
}
