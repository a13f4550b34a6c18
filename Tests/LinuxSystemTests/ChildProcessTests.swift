import Glibc
import LinuxSystem
import Testing

/// Programs that are started by their path. That the program itself is started again is for EndToEndTests to show.
@Suite struct ChildProcessTests {
    private func run(_ script: String) throws -> (ending: ChildProcess.Ending?, pid: pid_t, answer: String) {
        let ends = try UnixChannel.pair()
        let pid = try ChildProcess.spawn(
            path: "/bin/sh", arguments: ["a name", "-c", script],
            environment: ["PATH": "/usr/bin:/bin", "WORD": "hello"],
            channel: ends.other)
        let ending = ChildProcess.wait(for: pid)
        var bytes = [UInt8](repeating: 0, count: 1_000)
        let count = read(ends.one.rawValue, &bytes, bytes.count)
        return (ending, pid, String(decoding: bytes.prefix(max(0, count)), as: UTF8.self))
    }

    @Test func `a program that is started by its path has the channel, its environment and a process group of its own`()
        throws
    {
        let (ending, pid, answer) = try run("echo $0 $WORD $(ps -o pgid= -p $$ || echo $$) >&3; exit 7")
        #expect(ending == .exited(status: 7))
        #expect(answer.split(separator: " ").map(String.init).prefix(3) == ["a", "name", "hello"])
        #expect(answer.contains("\(pid)"))
    }

    @Test func `it has no other descriptors`() throws {
        let (_, _, answer) = try run(
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
