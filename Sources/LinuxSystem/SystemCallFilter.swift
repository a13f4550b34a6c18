import CLinux
import Glibc

/// Which system calls a process may make, as a value, and as the classic BPF program that the kernel runs before each of
/// them (seccomp(2)).
///
/// The program sees a call's number and the values of its arguments, and nothing that a pointer leads to.
public struct SystemCallFilter: Equatable, Sendable {
    /// What becomes of a call.
    public enum Outcome: Equatable, Sendable {
        case allow
        /// It fails with this errno.
        case fail(Int32)
        /// The process is killed by SIGSYS, which a handler cannot catch.
        case kill

        fileprivate var value: UInt32 {
            switch self {
            case .allow: CL_SECCOMP_RET_ALLOW
            case .fail(let errno): CL_SECCOMP_RET_ERRNO | UInt32(truncatingIfNeeded: errno) & 0xffff
            case .kill: CL_SECCOMP_RET_KILL_PROCESS
            }
        }
    }

    /// What an argument must be.
    public struct Condition: Equatable, Sendable {
        fileprivate let argument: Int
        fileprivate let mask: UInt32
        fileprivate let value: UInt32
        /// Whether the upper 32 bits must be 0 too. The kernel does not look at them where an argument is an int.
        fileprivate let isWide: Bool

        /// The bits of `mask` in an int, or in the lower half of a longer argument, are those of `value`.
        /// - Parameter argument: 0 to 5.
        public static func bits(_ mask: UInt32 = .max, of argument: Int, are value: UInt32) -> Condition {
            Condition(argument: argument, mask: mask, value: value, isWide: false)
        }

        /// The argument is a null pointer.
        public static func isNull(_ argument: Int) -> Condition {
            Condition(argument: argument, mask: .max, value: 0, isWide: true)
        }
    }

    private struct Rule: Equatable, Sendable {
        let call: Int32
        let outcome: Outcome
        /// The outcome is this one where all conditions of one list hold, and ``SystemCallFilter/refusal`` where none's
        /// do.
        let alternatives: [[Condition]]
    }

    private var rules: [Rule] = []
    /// What becomes of calls that no rule names.
    private let otherwise: Outcome
    private let refusal: Outcome

    /// The first call whose number is the same on all processors: pidfd_send_signal, of Linux 5.1.
    private static let firstRecentCall: UInt32 = 424
    /// From here on numbers are those of the ABI x32, by which the kernel's functions of the same calls are reached.
    private static let firstOfOtherABI: UInt32 = 0x4000_0000

    /// A filter that lets pass what rules allow, and has the rest fail: with EPERM, and with ENOSYS where the call is of
    /// Linux 5.1 or later, as on a kernel that does not know it. So a C library that has learned of another call falls
    /// back to the one that it has used before.
    public static var allowingNothing: SystemCallFilter {
        SystemCallFilter(otherwise: .fail(EPERM), refusal: .fail(EPERM))
    }

    /// A filter that lets pass whatever rules do not name.
    public static var refusingNothing: SystemCallFilter {
        SystemCallFilter(otherwise: .allow, refusal: .fail(EPERM))
    }

    private init(otherwise: Outcome, refusal: Outcome) {
        self.otherwise = otherwise
        self.refusal = refusal
    }

    /// Adds a rule for each of these calls. The first rule for a call holds.
    /// - Parameter calls: `CL_SYS_…` of CLinux; those that this processor does not have are left out.
    public mutating func add(_ outcome: Outcome, _ calls: [Int32]) {
        for call in calls { add(outcome, call, where: [[]]) }
    }

    /// Adds a rule for each of these calls, likewise.
    public mutating func add(_ outcome: Outcome, _ calls: Int32...) { add(outcome, calls) }

    /// Adds a rule for a call with arguments: its outcome is this one where all conditions of one list hold, and EPERM
    /// otherwise.
    public mutating func add(_ outcome: Outcome, _ call: Int32, where alternatives: [[Condition]]) {
        guard call >= 0, !rules.contains(where: { $0.call == call }) else { return }
        rules.append(Rule(call: call, outcome: outcome, alternatives: alternatives))
    }

    /// Whether there is a program for this processor.
    public static var isAvailable: Bool { CL_ARCHITECTURE != 0 }

    /// Has the kernel run the program for this thread, and for all processes that it starts, for good. It takes
    /// ``Privileges/forbidNew()``, or CAP_SYS_ADMIN.
    /// - Throws: ENOSYS and EINVAL where the kernel has no seccomp(2), ENOTSUP on another processor than x86-64 and arm64.
    public func install() throws(SystemError) {
        guard Self.isAvailable else { throw SystemError("seccomp", errno: ENOTSUP) }
        let program = instructions
        func install(_ flags: UInt32) -> Int32 {
            program.withUnsafeBufferPointer {
                cl_install_filter($0.baseAddress, UInt16(clamping: $0.count), flags)
            }
        }
        // Without this flag, kernels before 5.16 switch off speculation past stores for the process, which costs a lot
        // and is of no use where no code of others runs (seccomp(2)).
        if install(CL_SECCOMP_FILTER_FLAG_SPEC_ALLOW) == 0 { return }
        _ = try system("seccomp") { install(0) }
    }

    // MARK: The program

    /// Offsets in struct seccomp_data, on a little-endian processor.
    private enum Offset {
        static let number: UInt32 = 0
        static let architecture: UInt32 = 4
        static func lower(_ argument: Int) -> UInt32 { 16 + 8 * UInt32(truncatingIfNeeded: argument) }
        static func upper(_ argument: Int) -> UInt32 { lower(argument) + 4 }
    }

    /// Codes of linux/bpf_common.h.
    enum Code {
        /// BPF_LD | BPF_W | BPF_ABS
        static let load: UInt16 = 0x20
        /// BPF_ALU | BPF_AND | BPF_K
        static let and: UInt16 = 0x54
        /// BPF_JMP | BPF_JEQ | BPF_K
        static let ifEqual: UInt16 = 0x15
        /// BPF_JMP | BPF_JGE | BPF_K
        static let ifAtLeast: UInt16 = 0x35
        /// BPF_RET | BPF_K
        static let `return`: UInt16 = 0x06
    }

    /// The instructions in their order. Each rule returns or is jumped over, so none depends on another one's place.
    var instructions: [cl_instruction] {
        var program = [
            Self.load(Offset.architecture), Self.skip(1, ifEqual: CL_ARCHITECTURE), Self.returning(.kill),
            Self.load(Offset.number),
            cl_instruction(code: Code.ifAtLeast, when_true: 0, when_false: 1, value: Self.firstOfOtherABI),
            Self.returning(.kill),
        ]
        for rule in rules {
            let body = body(of: rule)
            program.append(Self.skip(body.count, unlessEqual: UInt32(bitPattern: rule.call)))
            program += body
        }
        if otherwise != .allow {
            program.append(
                cl_instruction(code: Code.ifAtLeast, when_true: 0, when_false: 1, value: Self.firstRecentCall))
            program.append(Self.returning(.fail(ENOSYS)))
        }
        return program + [Self.returning(otherwise)]
    }

    private func body(of rule: Rule) -> [cl_instruction] {
        if rule.alternatives.contains([]) { return [Self.returning(rule.outcome)] }
        var body: [cl_instruction] = []
        for conditions in rule.alternatives {
            var part: [cl_instruction] = [Self.returning(rule.outcome)]
            // From the last to the first: each skips what is left of this part.
            for condition in conditions.reversed() {
                if condition.isWide {
                    part = [Self.load(Offset.upper(condition.argument)), Self.skip(part.count, unlessEqual: 0)] + part
                }
                let compare = Self.skip(part.count, unlessEqual: condition.value)
                let mask =
                    condition.mask == .max
                    ? [] : [cl_instruction(code: Code.and, when_true: 0, when_false: 0, value: condition.mask)]
                part = [Self.load(Offset.lower(condition.argument))] + mask + [compare] + part
            }
            body += part
        }
        return body + [Self.returning(refusal)]
    }

    private static func load(_ offset: UInt32) -> cl_instruction {
        cl_instruction(code: Code.load, when_true: 0, when_false: 0, value: offset)
    }

    private static func skip(_ count: Int, ifEqual value: UInt32) -> cl_instruction {
        cl_instruction(code: Code.ifEqual, when_true: UInt8(clamping: count), when_false: 0, value: value)
    }

    private static func skip(_ count: Int, unlessEqual value: UInt32) -> cl_instruction {
        cl_instruction(code: Code.ifEqual, when_true: 0, when_false: UInt8(clamping: count), value: value)
    }

    private static func returning(_ outcome: Outcome) -> cl_instruction {
        cl_instruction(code: Code.return, when_true: 0, when_false: 0, value: outcome.value)
    }
}
