import Foundation
import Glibc
import LinuxSystem
import Testing

@Suite struct FileWatcherTests {
    private let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("watched-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    private func path(_ name: String) -> String { folder.appendingPathComponent(name).path }

    private func write(_ name: String) throws { try Data("x".utf8).write(to: folder.appendingPathComponent(name)) }

    /// inotify tells before the call that changes a file returns, so nothing is waited for.
    @Test func `a file that is written or replaced is noticed`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        try write("file")
        try write("other")
        let watcher = try FileWatcher()
        try watcher.add(path("file"))
        #expect(try !watcher.takeChanges())
        try write("file")
        #expect(try watcher.takeChanges())
        #expect(try !watcher.takeChanges())
        try write("new")
        #expect(try !watcher.takeChanges(), "what else is in the folder is of no interest")
        #expect(rename(path("new"), path("file")) == 0)
        #expect(try watcher.takeChanges())
        #expect(chmod(path("file"), 0o600) == 0)
        #expect(try watcher.takeChanges())
    }

    @Test func `a file that is created later is noticed`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let watcher = try FileWatcher()
        try watcher.add(path("file"))
        try write("file")
        #expect(try watcher.takeChanges())
        #expect(throws: SystemError.self) { try watcher.add(path("file/below")) }
    }

    /// The nearest folder that is there tells when the next one comes.
    @Test(arguments: ["upper/lower/file", "link/file"])
    func `a file in folders that are created later is noticed`(_ name: String) throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        #expect(symlink("upper/lower", path("link")) == 0)
        var watcher = try FileWatcher()
        try watcher.add(path(name))
        for folder in ["upper", "upper/lower"] {
            #expect(try !watcher.takeChanges())
            #expect(mkdir(path(folder), 0o700) == 0)
            #expect(try watcher.takeChanges())
            watcher = try FileWatcher()
            try watcher.add(path(name))
        }
        try write("upper/lower/other")
        #expect(try !watcher.takeChanges())
        try write("upper/lower/file")
        #expect(try watcher.takeChanges())
    }

    /// As certbot and Kubernetes lay their files out: links to files, and to the folder with the newest of them.
    @Test func `changes of symbolic links on the way are noticed`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        for version in ["one", "two"] {
            try FileManager.default.createDirectory(atPath: path(version), withIntermediateDirectories: true)
            try write("\(version)/file")
        }
        #expect(symlink("one", path("current")) == 0)
        #expect(symlink("current/file", path("file")) == 0)
        let watcher = try FileWatcher()
        try watcher.add(path("file"))
        #expect(watcher.names == ["file", "current"])
        try write("one/file")
        #expect(try watcher.takeChanges())
        #expect(symlink("two", path("next")) == 0)
        #expect(try !watcher.takeChanges())
        #expect(rename(path("next"), path("current")) == 0)
        #expect(try watcher.takeChanges())
    }

    @Test func `symbolic links in a circle end`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        #expect(symlink("b", path("a")) == 0)
        #expect(symlink("a", path("b")) == 0)
        let watcher = try FileWatcher()
        try watcher.add(path("a"))
        #expect(watcher.names == ["a", "b"])
    }

    /// Another process goes on with the descriptor.
    @Test func `the descriptor can be handed on`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let watcher = try FileWatcher()
        try watcher.add(path("file"))
        let other = FileWatcher(owning: try watcher.descriptor.duplicate(), names: watcher.names)
        try write("file")
        #expect(try other.takeChanges())
    }

    @Test func `a folder that is moved away is noticed`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        try FileManager.default.createDirectory(atPath: path("here"), withIntermediateDirectories: true)
        let watcher = try FileWatcher()
        try watcher.add(path("here/file"))
        #expect(rename(path("here"), path("there")) == 0)
        #expect(try watcher.takeChanges())
    }
}
