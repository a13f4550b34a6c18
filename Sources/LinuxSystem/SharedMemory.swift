import CLinux
import Glibc

/// A memfd that is mapped for reading and writing, so that several processes share its bytes and they survive each of
/// them. Pages take memory once they are written to.
///
/// Its bytes are left out of core dumps.
public final class SharedMemory {
    /// For passing it to another process.
    public let descriptor: FileDescriptor
    /// Valid for as long as this object is.
    public let bytes: UnsafeMutableRawBufferPointer
    /// How many bytes from the start on are locked, so that they are never written to a swap device.
    public private(set) var lockedBytes = 0

    /// Makes memory of `byteCount` zeros.
    public convenience init(byteCount: Int, name: String) throws(SystemError) {
        let file = try MemoryFile.makeOpen(name: name)
        let raw = file.rawValue
        _ = try system("ftruncate", "memfd") { ftruncate(raw, off_t(byteCount)) }
        // Nobody can shrink it under a process that has mapped it, which would be killed by SIGBUS.
        _ = try system("fcntl(F_ADD_SEALS)") {
            fcntl(raw, CL_F_ADD_SEALS, CL_F_SEAL_SHRINK | CL_F_SEAL_GROW | CL_F_SEAL_SEAL)
        }
        try self.init(file)
    }

    /// Maps memory that another process has made.
    public init(_ file: consuming FileDescriptor) throws(SystemError) {
        var status = stat()
        let raw = file.rawValue
        _ = try system("fstat", "memfd") { fstat(raw, &status) }
        let count = Int(status.st_size)
        guard let start = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_SHARED, raw, 0), start != MAP_FAILED else {
            throw SystemError("mmap", "memfd", errno: errno)
        }
        madvise(start, count, MADV_DONTDUMP)
        bytes = UnsafeMutableRawBufferPointer(start: start, count: count)
        descriptor = file
    }

    deinit { munmap(bytes.baseAddress, bytes.count) }

    /// Keeps a part out of swap devices without giving it memory: pages are locked once this process uses them. The whole
    /// part counts for RLIMIT_MEMLOCK.
    /// - Parameter range: within the memory.
    /// - Returns: false where the limit is reached.
    public func lockOnUse(_ range: Range<Int>) -> Bool {
        guard let start = bytes.baseAddress else { return true }
        return cl_mlock_on_fault(start + range.lowerBound, range.count) == 0
    }

    /// Keeps the first `count` bytes out of swap devices, as far as RLIMIT_MEMLOCK allows.
    /// - Returns: false where the limit is reached.
    public func lock(_ count: Int) -> Bool {
        guard count > lockedBytes, let start = bytes.baseAddress else { return true }
        guard mlock(start + lockedBytes, min(count, bytes.count) - lockedBytes) == 0 else { return false }
        lockedBytes = count
        return true
    }
}
