import Foundation
import LinuxSystem
import Testing

@testable import DTLSDaemon

/// The targets of handler "log" that one worker has, with files in place of sockets.
@Suite struct LogOutputsTests {
    private let resources: HandlerResources
    private let origin = LogOrigin(service: "collect", peer: "192.0.2.1:40000", client: "sensor-7")
    private let folder = FileManager.default.temporaryDirectory.appending(path: "dtlsd-\(UUID().uuidString)")

    init() throws {
        let loop = try EventLoop()
        resources = HandlerResources(loop: loop, logs: WorkerLogs(worker: 0, loop: loop))
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    private var outputs: LogOutputs { resources.sharedState(LogOutputs.self) }

    private func write(_ message: String, to output: any LogOutput) {
        Array(message.utf8).withUnsafeBytes { output.write(.plain($0), from: origin) }
    }

    /// The lines of a file without their times.
    private func lines(_ name: String) throws -> [String] {
        let text = try String(contentsOf: folder.appending(path: name), encoding: .utf8)
        #expect(text.isEmpty || text.hasSuffix("\n"))
        return text.split(separator: "\n").map { line in
            line.split(separator: " ", maxSplits: 1).dropFirst().joined()
        }
    }

    @Test func `all connections share the output of a target`() {
        let target = LogTarget.file(folder.appending(path: "messages").path)
        let other = LogTarget.file(folder.appending(path: "others").path)
        #expect(outputs.output(for: target) === outputs.output(for: target))
        #expect(outputs.output(for: target) !== outputs.output(for: other))
    }

    @Test func `the lines of a batch are written at its end`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let output = outputs.output(for: .file(folder.appending(path: "messages").path))
        write("one", to: output)
        write("two\n", to: output)
        #expect(!FileManager.default.fileExists(atPath: folder.appending(path: "messages").path))
        output.flush()
        #expect(try lines("messages") == ["192.0.2.1:40000 sensor-7 one", "192.0.2.1:40000 sensor-7 two"])
        output.flush()
        #expect(try lines("messages").count == 2)
    }

    @Test func `a batch that is larger than the buffer is whole`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let output = outputs.output(for: .file(folder.appending(path: "messages").path))
        let long = String(repeating: "x", count: 16_000)
        for _ in 0..<20 { write(long, to: output) }
        output.flush()
        #expect(try lines("messages") == Array(repeating: "192.0.2.1:40000 sensor-7 \(long)", count: 20))
    }

    @Test func `a file that was rotated is opened again after a reload`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let path = folder.appending(path: "messages").path
        let output = outputs.output(for: .file(path))
        write("before", to: output)
        output.flush()
        try FileManager.default.moveItem(atPath: path, toPath: path + ".1")
        write("to the old file", to: output)
        output.flush()
        resources.reconfigure()
        write("after", to: output)
        output.flush()
        #expect(
            try lines("messages.1") == ["192.0.2.1:40000 sensor-7 before", "192.0.2.1:40000 sensor-7 to the old file"])
        #expect(try lines("messages") == ["192.0.2.1:40000 sensor-7 after"])
    }

    @Test func `a file is appended to`() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let path = folder.appending(path: "messages").path
        try "time there\n".write(toFile: path, atomically: true, encoding: .utf8)
        let output = outputs.output(for: .file(path))
        write("new", to: output)
        output.flush()
        #expect(try lines("messages") == ["there", "192.0.2.1:40000 sensor-7 new"])
    }

    @Test func `files keep no worker from ending`() {
        _ = outputs.output(for: .file(folder.appending(path: "messages").path))
        var isDone = false
        resources.finish(by: resources.loop.now) { isDone = true }
        #expect(isDone)
    }
}
