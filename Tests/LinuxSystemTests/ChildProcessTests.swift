import Glibc
import LinuxSystem
import Testing

/// Programs that are started by their path. That the program itself is started again is for EndToEndTests to show.
@Suite struct ChildProcessTests {
    /// Runs a script with the channel as descriptor 3 and returns what it writes there.
    private func run(_ script: String) throws -> (pid: pid_t, answer: String) {
        let ends = try UnixChannel.pair()
        let pid = try ChildProcess.spawn(
            path: "/bin/sh", arguments: ["a name", "-c", script],
            environment: ["PATH": "/usr/bin:/bin", "WORD": "hello"], channel: ends.other)
        var entry = pollfd(fd: ends.one.rawValue, events: Int16(POLLIN), revents: 0)
        #expect(poll(&entry, 1, 60_000) == 1)
        var bytes = [UInt8](repeating: 0, count: 1_000)
        let count = read(ends.one.rawValue, &bytes, bytes.count)
        return (pid, String(decoding: bytes.prefix(max(0, count)), as: UTF8.self))
    }

    @Test func `a program that is started by its path has the channel, its environment and a process group of its own`()
        throws
    {
        let (pid, answer) = try run("read -r _ _ _ parent group _ </proc/$$/stat; echo $0 $WORD $$ $group $parent >&3")
        let words = answer.split(whereSeparator: \.isWhitespace).map(String.init)
        try #require(words.count == 6)
        #expect(words[..<5] == ["a", "name", "hello", "\(pid)", "\(pid)"])
        // It is no child of this process: systemd waits for the end of its own children alone.
        #expect(words[5] != "\(getpid())")
        #expect(ChildProcess.wait(for: pid) == nil)
    }

    @Test func `its end is told`() throws {
        let ends = try UnixChannel.pair()
        let pid = try ChildProcess.spawn(
            path: "/bin/sh", arguments: ["sh", "-c", "sleep 600"], environment: ["PATH": "/usr/bin:/bin"],
            channel: ends.other)
        let end = try ChildProcess.watch(pid)
        var entry = pollfd(fd: end.rawValue, events: Int16(POLLIN), revents: 0)
        #expect(poll(&entry, 1, 0) == 0)
        kill(-pid, SIGKILL)
        #expect(poll(&entry, 1, 60_000) == 1)
    }

    @Test func `it has no other descriptors`() throws {
        let (_, answer) = try run(
            "for n in 4 5 6 7 8 9; do test -e /proc/$$/fd/$n && echo $n >&3; done; echo end >&3")
        #expect(answer == "end\n")
    }

    @Test func `the error of a path is told`() throws {
        let ends = try UnixChannel.pair()
        let error = #expect(throws: SystemError.self) {
            _ = try ChildProcess.spawn(
                path: "/nowhere/dtlsd", arguments: ["x"], environment: [:], channel: try ends.other.duplicate())
        }
        #expect(error?.errno == ENOENT)
        #expect(error?.description.contains("/nowhere/dtlsd") == true)
    }

    @Test func `the path of this program is absolute`() throws {
        let path = try #require(ChildProcess.programPath())
        #expect(path.hasPrefix("/"))
        #expect(access(path, X_OK) == 0)
    }
}
