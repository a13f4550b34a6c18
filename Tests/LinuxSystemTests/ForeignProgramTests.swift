import Glibc
import LinuxSystem
import Testing

@Suite struct ForeignProgramTests {
    /// Waits until the program has ended, as a loop would.
    private func end(of program: pid_t) throws -> ChildProcess.Ending? {
        let process = try ChildProcess.watch(program)
        var entry = pollfd(fd: process.rawValue, events: Int16(POLLIN), revents: 0)
        while poll(&entry, 1, 60_000) < 0, errno == EINTR {}
        return ChildProcess.reap(program)
    }

    private func read(_ socket: borrowing FileDescriptor) -> String? {
        var entry = pollfd(fd: socket.rawValue, events: Int16(POLLIN), revents: 0)
        while poll(&entry, 1, 60_000) < 0, errno == EINTR {}
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let count = recv(socket.rawValue, &buffer, buffer.count, 0)
        return count >= 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
    }

    @Test func `each write is a message, and the end of the program is reported`() throws {
        let ends = try ForeignProgram.socketPair()
        let program = try ForeignProgram.spawn(
            ["/bin/sh", "-c", "echo $ONE; echo two; exit 7"], environment: ["ONE": "1 ä"], stream: ends.other,
            limits: .init())
        #expect(read(ends.own) == "1 ä\n")
        #expect(read(ends.own) == "two\n")
        #expect(try end(of: program) == .exited(status: 7))
        #expect(ChildProcess.reap(program) == nil)
    }

    @Test func `a program that cannot be started is reported with the reason`() throws {
        let ends = try ForeignProgram.socketPair()
        func code(_ path: String, _ limits: ForeignProgram.Limits = .init()) -> Int32 {
            do throws(SystemError) {
                let program = try ForeignProgram.spawn([path], environment: [:], stream: ends.other, limits: limits)
                ForeignProgram.signal(SIGKILL, toGroupOf: program)
                _ = ChildProcess.wait(for: program)
                return 0
            } catch {
                return error.errno
            }
        }
        #expect(code("/no/such/program") == ENOENT)
        #expect(code("/etc/passwd") == EACCES)
        #expect(code("/") == EACCES)
        #expect(code("/bin/true") == 0)
    }

    @Test func `a signal reaches all of the program's group`() throws {
        let ends = try ForeignProgram.socketPair()
        let program = try ForeignProgram.spawn(
            ["/bin/sh", "-c", "sleep 1000 & echo ready; wait"], environment: [:], stream: ends.other, limits: .init())
        #expect(read(ends.own) == "ready\n")
        #expect(ChildProcess.reap(program) == nil)
        ForeignProgram.signal(SIGKILL, toGroupOf: program)
        #expect(try end(of: program) == .killed(signal: SIGKILL))
        // The pair's other end is only closed when nobody has it any more: not the one that it has started, either.
        drop(ends)
    }

    private func drop(_ ends: consuming ForeignProgram.Ends) {
        do { _ = consume ends.other }
        #expect(read(ends.own) == "")
    }

    /// A limit above this process' own is lowered to it, where the kernel would refuse it.
    @Test func `limits are set for the program`() throws {
        let ends = try ForeignProgram.socketPair()
        let program = try ForeignProgram.spawn(
            ["/bin/sh", "-c", "ulimit -v; ulimit -n; ulimit -St; ulimit -Ht"], environment: [:], stream: ends.other,
            limits: .init(memory: 100 << 20, processorTime: 5, openFiles: .max))
        #expect(read(ends.own) == "102400\n")
        var own = rlimit()
        #expect(getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &own) == 0)
        #expect(read(ends.own) == (own.rlim_max == .max ? "unlimited\n" : "\(own.rlim_max)\n"))
        #expect(read(ends.own) == "5\n")
        #expect(read(ends.own) == "6\n")
        #expect(try end(of: program) == .exited(status: 0))
    }
}
