import CLinux
import Glibc

/// A program that the kernel runs on each datagram before it puts it into a socket's queue, and that says whether it does so
/// (classic BPF, SO_ATTACH_FILTER of socket(7)). It takes no privilege. The kernel drops what the program does not keep, and
/// counts it as dropped for the socket (``QueueDrops``).
///
/// The program sees the payload of a datagram. It has an accumulator and an index. Where it loads what is behind the
/// datagram's end, the datagram is dropped.
public struct DatagramFilter: Equatable, Sendable {
    public enum Instruction: Equatable, Sendable {
        /// Loads the length of the payload and of the UDP header together.
        case loadLength
        /// Loads a byte of the payload.
        case loadByte(at: Int)
        /// Loads two bytes of the payload, the first of which is the more significant one.
        case loadShort(at: Int)
        /// Loads the byte that is so many bytes behind the place that the index says.
        case loadByteBehindIndex(Int)
        /// Loads 32 random bits.
        case loadRandom
        case copyToIndex
        /// Skips so many instructions, up to 255, if the accumulator has this value; or if it does not; and so on.
        case skipIfEqual(Int, UInt32)
        case skipUnlessEqual(Int, UInt32)
        case skipUnlessAtLeast(Int, UInt32)
        case keep
        case drop
    }

    private let instructions: [Instruction]

    /// - Parameter instructions: the last one of which is `keep` or `drop`.
    public init(_ instructions: [Instruction]) { self.instructions = instructions }

    /// Has the kernel run the program for this socket, in the place of the one before.
    public func attach(to socket: borrowing FileDescriptor) throws(SystemError) {
        let (raw, program) = (socket.rawValue, instructions.map(Self.encode))
        _ = try system("setsockopt", "SO_ATTACH_FILTER") {
            program.withUnsafeBufferPointer { cl_attach_filter(raw, $0.baseAddress, UInt16(clamping: $0.count)) }
        }
    }

    /// Has the kernel keep all datagrams of the socket again, also where another process has attached the program.
    public static func detach(from socket: borrowing FileDescriptor) {
        var unused: Int32 = 0
        // ENOENT: there is none.
        _ = setsockopt(socket.rawValue, SOL_SOCKET, CL_SO_DETACH_FILTER, &unused, 4)
    }

    /// Bytes of the UDP header, which the program sees before the payload.
    public static let headerSize = 8

    private static func offset(_ offset: Int) -> UInt32 { UInt32(clamping: headerSize + offset) }

    private static func encode(_ instruction: Instruction) -> cl_instruction {
        switch instruction {
        // BPF_LD | BPF_W | BPF_LEN
        case .loadLength: cl_instruction(code: 0x80, when_true: 0, when_false: 0, value: 0)
        // BPF_LD | BPF_B | BPF_ABS
        case .loadByte(let at): cl_instruction(code: 0x30, when_true: 0, when_false: 0, value: offset(at))
        // BPF_LD | BPF_H | BPF_ABS
        case .loadShort(let at): cl_instruction(code: 0x28, when_true: 0, when_false: 0, value: offset(at))
        // BPF_LD | BPF_B | BPF_IND
        case .loadByteBehindIndex(let count):
            cl_instruction(code: 0x50, when_true: 0, when_false: 0, value: offset(count))
        // BPF_LD | BPF_W | BPF_ABS of SKF_AD_OFF + SKF_AD_RANDOM (linux/filter.h)
        case .loadRandom: cl_instruction(code: 0x20, when_true: 0, when_false: 0, value: 0xffff_f000 + 56)
        // BPF_MISC | BPF_TAX
        case .copyToIndex: cl_instruction(code: 0x07, when_true: 0, when_false: 0, value: 0)
        // BPF_JMP | BPF_JEQ | BPF_K
        case .skipIfEqual(let count, let value):
            cl_instruction(code: 0x15, when_true: UInt8(clamping: count), when_false: 0, value: value)
        case .skipUnlessEqual(let count, let value):
            cl_instruction(code: 0x15, when_true: 0, when_false: UInt8(clamping: count), value: value)
        // BPF_JMP | BPF_JGE | BPF_K
        case .skipUnlessAtLeast(let count, let value):
            cl_instruction(code: 0x35, when_true: 0, when_false: UInt8(clamping: count), value: value)
        // BPF_RET | BPF_K: how many bytes are kept
        case .keep: cl_instruction(code: 0x06, when_true: 0, when_false: 0, value: .max)
        case .drop: cl_instruction(code: 0x06, when_true: 0, when_false: 0, value: 0)
        }
    }
}
