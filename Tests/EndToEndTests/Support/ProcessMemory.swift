import Foundation
import TestSupport

/// What root can read of the memory of another process.
enum ProcessMemory {
    /// Bytes that are read at a time.
    private static let step = 1 << 20
    /// Of a larger mapping, only what the process itself has touched is read: reading a hole of a memory file fills it.
    private static let largest = 64 << 20
    private static let pageSize = 4_096

    /// - Parameter patterns: of at most 256 bytes each.
    /// - Returns: the indices of the patterns that stand somewhere in the writable memory of the process.
    static func search(_ pid: pid_t, for patterns: [Data]) throws -> Set<Int> {
        let memory = open("/proc/\(pid)/mem", O_RDONLY)
        let pages = open("/proc/\(pid)/pagemap", O_RDONLY)
        defer {
            close(memory)
            close(pages)
        }
        guard memory >= 0, pages >= 0 else { throw Unreadable(pid: pid) }
        var found: Set<Int> = []
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: step + 256, alignment: 16)
        defer { buffer.deallocate() }
        for line in ProcessTable.text(of: "/proc/\(pid)/maps").split(separator: "\n") {
            let words = line.split(separator: " ")
            let ends = words[0].split(separator: "-").compactMap { Int($0, radix: 16) }
            guard words[1].hasPrefix("rw"), ends.count == 2 else { continue }
            for start in stride(from: ends[0], to: ends[1], by: step) {
                let end = min(ends[1], start + step + 256)
                if ends[1] - ends[0] > largest, !isTouched(pages, start..<end) { continue }
                let count = pread(memory, buffer.baseAddress, end - start, off_t(start))
                guard count > 0, let bytes = buffer.baseAddress else { continue }
                // Nothing but zeros.
                if buffer[0] == 0, memcmp(bytes, bytes + 1, count - 1) == 0 { continue }
                let part = Data(bytesNoCopy: bytes, count: count, deallocator: .none)
                for (index, pattern) in patterns.enumerated() where !found.contains(index) {
                    if part.range(of: pattern) != nil { found.insert(index) }
                }
            }
        }
        return found
    }

    /// By the bits of pages that are present, or swapped out (Documentation/admin-guide/mm/pagemap.rst).
    private static func isTouched(_ pages: Int32, _ range: Range<Int>) -> Bool {
        var entries = [UInt64](repeating: 0, count: (range.count + pageSize - 1) / pageSize)
        let size = entries.count * 8
        let count = pread(pages, &entries, size, off_t(range.lowerBound / pageSize * 8))
        return count < size || entries.contains { $0 >> 62 != 0 }
    }

    private struct Unreadable: Error, CustomStringConvertible {
        let pid: pid_t
        var description: String { "the memory of process \(pid) cannot be read" }
    }
}
