import Foundation
import Synchronization

/// A folder for one test's files. It goes away with the last reference.
package final class TestFolder: Sendable {
    package let path: String

    package init() throws {
        var template = Array("/tmp/dtlsd-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw POSIXError(.init(rawValue: errno) ?? .EIO) }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    package func file(_ name: String) -> String { "\(path)/\(name)" }

    /// Writes a text file that only its owner may read, and returns its path.
    @discardableResult
    package func write(_ text: String, to name: String) throws -> String {
        let path = file(name)
        try Program.starting.withLock { _ in try Data(text.utf8).write(to: URL(fileURLWithPath: path)) }
        chmod(path, 0o600)
        return path
    }

    package func read(_ name: String) -> String {
        String(decoding: FileManager.default.contents(atPath: file(name)) ?? Data(), as: UTF8.self)
    }
}
