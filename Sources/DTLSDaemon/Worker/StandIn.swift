#if DEBUG
    import CLinux
    import Glibc
    import LinuxSystem

    /// The stand-in for a worker that an attacker controls, in debug builds alone, and there only with DTLSD_STAND_IN=1 in the
    /// daemon's environment. A client of a service with handler "echo" has the worker do what an attacker would, by a
    /// message `stand-in: ACTION ARGUMENT`, and gets the outcome back. The processes beside the workers do what
    /// DTLSD_STAND_IN_LOADER and the like say once their walls are raised, `ACTION ARGUMENT;…`, and tell the outcomes on
    /// standard error. `Tests/EndToEndTests/WallTests.swift` asserts each.
    enum StandIn {
        private static let isWanted = ChildProcess.environment()["DTLSD_STAND_IN"] == "1"
        private static let prefix = "stand-in: "
        /// PTRACE_ATTACH
        private static let attach = 16
        /// This worker's channel to the key process.
        nonisolated(unsafe) static var keys: KeyChannel?
        /// The memory that this worker shares with the main process.
        nonisolated(unsafe) static var shared = UnsafeMutableRawBufferPointer(start: nil, count: 0)

        /// - Returns: `nil` for a message that is none of these.
        static func answer(to message: UnsafeRawBufferPointer) -> [UInt8]? {
            guard isWanted else { return nil }
            let text = String(decoding: message, as: UTF8.self)
            guard text.hasPrefix(prefix) else { return nil }
            let words = text.dropFirst(prefix.count).split { $0 == " " || $0 == "\n" }.map(String.init)
            guard let action = words.first else { return nil }
            let outcome = perform(action, words.count > 1 ? words[1] : "")
            return Array("\(words.joined(separator: " ")): \(outcome)\n".utf8)
        }

        /// - Parameter role: "loader", "resolver" or "checker".
        static func actAsTold(in role: String) {
            guard let told = ChildProcess.environment()["DTLSD_STAND_IN_\(role.uppercased())"] else { return }
            for action in told.split(separator: ";") {
                let words = action.split(separator: " ").map(String.init)
                let line = "\(role): \(action): \(perform(words[0], words.count > 1 ? words[1] : ""))\n"
                _ = outcome { write(STDERR_FILENO, line, line.utf8.count) }
            }
        }

        private static func perform(_ action: String, _ argument: String) -> String {
            let pid = argument == "main" ? Int(getppid()) : Int(argument) ?? 0
            switch action {
            // The worker dies in the midst of the client's record, where a signal from outside seldom comes. Debug builds
            // alone have this code.
            case "crash": fatalError("The stand-in crashes, as it was told to.")
            case "segfault":
                // The first page is nobody's.
                UnsafeMutablePointer<UInt8>(bitPattern: 8)?.pointee = 0
                return "there is memory at 8"
            case "read": return outcome { open(argument, O_RDONLY) }
            case "append": return outcome { open(argument, O_WRONLY | O_APPEND | O_CREAT, 0o600) }
            case "overwrite": return outcome { open(argument, O_WRONLY | O_CREAT, 0o600) }
            case "tcp": return outcome { socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) }
            case "udp": return outcome { socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0) }
            case "raw": return outcome { socket(AF_INET, Int32(SOCK_RAW.rawValue), Int32(IPPROTO_UDP)) }
            case "unix": return outcome { socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0) }
            // No descriptor has this number, which is found out once the call is allowed.
            case "connect": return outcome { attempt(CL_SYS_connect, -1) }
            case "interface": return outcome { if_nametoindex(argument) == 0 ? -1 : 0 }
            case "status": return status(argument)
            case "signal": return outcome { kill(pid_t(pid), 0) }
            case "own": return outcome { fcntl(STDERR_FILENO, F_SETOWN, pid_t(pid)) }
            case "fork": return outcome { attempt(CL_SYS_clone, Int(SIGCHLD)) }
            case "thread": return outcome { attempt(CL_SYS_clone3) }
            case "code":
                return outcome {
                    mmap(nil, 4_096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0
                }
            case "limit": return outcome { attempt(CL_SYS_prlimit64, pid, Int(RLIMIT_NOFILE.rawValue)) }
            case "trace": return outcome { attempt(CL_SYS_ptrace, attach, pid) }
            case "peek": return outcome { attempt(CL_SYS_process_vm_readv, pid) }
            case "take": return outcome { attempt(CL_SYS_pidfd_getfd, 0) }
            case "execute": return outcome { attempt(CL_SYS_execve) }
            case "namespace": return outcome { attempt(CL_SYS_unshare) }
            case "ring": return outcome { attempt(CL_SYS_io_uring_setup, 8) }
            case "send":
                let bytes = bytes(argument)
                return outcome { send(ChildProcess.channelDescriptor, bytes, bytes.count, 0) }
            case "ask":
                // The beginning of the answer, whose first byte says whether it is one.
                let answer = keys?.ask(bytes(argument), isAnswered: true)
                return answer.map { "answer \($0.first ?? 255)" } ?? "no answer"
            case "scribble":
                var state: UInt64 = 88_172_645_463_325_252
                // The first megabytes are those that are in use. The magic and the size stay.
                for offset in stride(from: 16, to: min(shared.count, 4 << 20), by: 8) {
                    state ^= state << 13
                    state ^= state >> 7
                    state ^= state << 17
                    shared.storeBytes(of: state, toByteOffset: offset, as: UInt64.self)
                }
                // Its connection is gone with the rest.
                _ = outcome { write(STDERR_FILENO, "scribbled\n", 10) }
                return "done"
            default: return "there is no such action"
            }
        }

        /// A line of /proc/self/status.
        private static func status(_ name: String) -> String {
            guard let text = try? FileContents(of: "/proc/self/status").bytes else { return "it cannot be read" }
            let lines = text.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
            let line = lines.first { $0.hasPrefix(name + ":") } ?? ""
            return line.dropFirst(name.count + 1).split(whereSeparator: \.isWhitespace).joined(separator: " ")
        }

        /// `LENGTH` zeros, or bytes in hexadecimal digits after an x: `x0a0b`.
        private static func bytes(_ text: String) -> [UInt8] {
            guard text.hasPrefix("x") else { return [UInt8](repeating: 0, count: Int(text) ?? 0) }
            let digits = Array(text.dropFirst())
            return stride(from: 0, to: digits.count - 1, by: 2).compactMap {
                UInt8(String(digits[$0...$0 + 1]), radix: 16)
            }
        }

        private static func attempt(_ number: Int32, _ first: Int = 0, _ second: Int = 0) -> Int {
            cl_attempt(Int(number), first, second, 0, 0, 0, 0)
        }

        private static func outcome<Result: BinaryInteger>(_ call: () -> Result) -> String {
            errno = 0
            return call() < 0 ? String(cString: strerror(errno)) : "done"
        }
    }
#endif
