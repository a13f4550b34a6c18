import CLinux
import Foundation
import TestSupport
import Testing

@testable import LinuxSystem

/// What holds for a thread alone, and for good: each test has a thread of its own.
@Suite struct WallTests {
    private static func error(_ call: () -> Int) -> Int32 {
        errno = 0
        return call() < 0 ? errno : 0
    }

    @Test(.enabled(if: FileWall.version > 0, "this kernel has no Landlock"))
    func `behind a wall only logs in granted folders are written, and nothing is read`() throws {
        let folder = try TestFolder()
        let (logs, other) = (folder.file("logs"), folder.file("other"))
        for path in [logs, other] { mkdir(path, 0o755) }
        let present = try folder.write("present", to: "other/present")
        let paths = ["\(logs)/new", "\(other)/new", present, "/proc/self/mem"]
        let before = open(logs, O_RDONLY)
        defer { close(before) }
        let (writes, reads, folders) = try OwnThread.runAlone {
            try Privileges.forbidNew()
            try FileWall.raise([.logs(in: logs)])
            return (
                paths.map { path in Self.error { Int(open(path, O_WRONLY | O_CREAT | O_APPEND, 0o600)) } },
                paths.map { path in Self.error { Int(open(path, O_RDONLY)) } },
                [Self.error { Int(mkdir("\(logs)/folder", 0o755)) }, Self.error { Int(unlink("\(logs)/new")) }]
            )
        }
        #expect(writes == [0, EACCES, EACCES, EACCES])
        #expect(reads == [EACCES, ENOENT, EACCES, EACCES])
        #expect(folders == [EACCES, EACCES])
        // Others are not behind it.
        #expect(Self.error { Int(open(present, O_RDONLY)) } == 0)
    }

    @Test(.enabled(if: FileWall.version > 0, "this kernel has no Landlock"))
    func `behind a wall a granted folder is read with all below it, and a granted file alone`()
        throws
    {
        let folder = try TestFolder()
        let below = folder.file("folder/below")
        for path in [folder.file("folder"), below] { mkdir(path, 0o755) }
        let within = try folder.write("text", to: "folder/below/text")
        let (file, other) = (try folder.write("text", to: "file"), try folder.write("text", to: "other"))
        let paths = [within, below, file, other]
        let link = folder.file("link")
        symlink(file, link)
        let outcomes = try OwnThread.runAlone {
            try Privileges.forbidNew()
            try FileWall.raise([
                .reading(in: folder.file("folder")), .readingFile(link), .readingFile(folder.file("missing")),
            ])
            return paths.map { path in Self.error { Int(open(path, O_RDONLY)) } }
                + [Self.error { Int(open(link, O_RDONLY)) }, Self.error { Int(open(within, O_WRONLY)) }]
        }
        #expect(outcomes == [0, 0, 0, EACCES, 0, EACCES])
    }

    /// The C library asks over a Unix socket, and over one of the internet where that fails.
    @Test func `interfaces have the numbers that the C library finds`() {
        #expect(NetworkInterface.index(of: "lo") == if_nametoindex("lo"))
        #expect(NetworkInterface.index(of: "lo") > 0)
        #expect(NetworkInterface.index(of: "none") == 0)
        #expect(NetworkInterface.index(of: "a-name-that-is-too-long") == 0)
    }

    @Test(.enabled(if: FileWall.version > 0, "this kernel has no Landlock"))
    func `a folder that is not there yet is the nearest one above it`() throws {
        let folder = try TestFolder()
        let deep = folder.file("one/two")
        let file = folder.file("log")
        let outcome = try OwnThread.runAlone {
            try Privileges.forbidNew()
            try FileWall.raise([.logs(in: deep)])
            return Self.error { Int(open(file, O_WRONLY | O_CREAT | O_APPEND, 0o600)) }
        }
        #expect(outcome == 0)
    }

    @Test(.enabled(if: SystemCallFilter.isAvailable, "no list for this processor"))
    func `a filter lets pass what it names, with the arguments that it names`() throws {
        var filter = SystemCallFilter.allowingNothing
        // What the thread itself needs.
        filter.add(
            .allow, CL_SYS_futex, CL_SYS_mmap, CL_SYS_munmap, CL_SYS_mprotect, CL_SYS_madvise, CL_SYS_brk, CL_SYS_exit,
            CL_SYS_rt_sigprocmask, CL_SYS_getpid, CL_SYS_write, CL_SYS_exit_group, CL_SYS_rseq)
        filter.add(
            .allow, CL_SYS_socket,
            where: [
                [.bits(of: 0, are: UInt32(AF_INET)), .bits(~0x80000, of: 1, are: 2)],
                [.bits(of: 0, are: UInt32(AF_UNIX)), .bits(of: 1, are: 2)],
            ])
        filter.add(.allow, CL_SYS_prlimit64, where: [[.bits(of: 0, are: 0), .isNull(2)]])
        let wanted = filter
        let outcomes = try OwnThread.runAlone {
            try Privileges.forbidNew()
            try wanted.install()
            var limit = rlimit()
            return [
                Self.error { Int(getpid()) }, Self.error { Int(chdir("/")) },
                Self.error { Int(socket(AF_INET, 2, 0)) }, Self.error { Int(socket(AF_INET, 2 | 0x80000, 0)) },
                Self.error { Int(socket(AF_INET, 1, 0)) }, Self.error { Int(socket(AF_INET6, 2, 0)) },
                Self.error { Int(socket(AF_UNIX, 2, 0)) }, Self.error { Int(socket(AF_UNIX, 2 | 0x80000, 0)) },
                Self.error { Int(getrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit)) },
                Self.error { Int(setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit)) },
                Self.error { Int(eventfd(0, 0)) }, Self.error { Int(cl_pidfd_open(1)) },
            ]
        }
        let expected: [Int32] = [0, EPERM, 0, 0, EPERM, EPERM, 0, EPERM, 0, EPERM, EPERM, ENOSYS]
        #expect(outcomes == expected)
    }

    @Test func `every jump of a filter stays within it, and its end is a return`() {
        var filter = SystemCallFilter.allowingNothing
        filter.add(.kill, CL_SYS_ptrace, CL_SYS_bpf)
        filter.add(
            .allow, CL_SYS_fcntl,
            where: (0..<20).map { [.bits(of: 1, are: $0), .bits(0xff, of: 2, are: 7), .isNull(3)] })
        let instructions = filter.instructions
        for (index, instruction) in instructions.enumerated() where instruction.code & 7 == 5 {
            let furthest = index + 1 + Int(max(instruction.when_true, instruction.when_false))
            #expect(furthest < instructions.count)
            #expect(max(instruction.when_true, instruction.when_false) < 255)
        }
        #expect(instructions.last?.code == 6)
    }
}
