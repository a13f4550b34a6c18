import CLinux
import Glibc

/// Sends many datagrams in one system call over a connected socket.
///
/// Runs of equal size go as one message with UDP_SEGMENT (the kernel cuts it up), and all runs in one sendmmsg(2).
/// One sender serves all sockets of a thread.
public final class DatagramSender {
    /// What became of a batch.
    public struct Outcome {
        /// Datagrams the kernel took.
        public var sent = 0
        /// Datagrams that are done with: taken or refused. Those after them were not tried, since the socket is full.
        public var handled = 0
        /// Datagrams that were refused since the path does not take their size (EMSGSIZE).
        public var tooLarge = 0
        /// The last errno, or 0. EAGAIN: the socket's buffer is full; ECONNREFUSED: nobody listens at the peer.
        public var error: Int32 = 0
    }

    /// UDP_MAX_SEGMENTS of Linux before 6.9, and the largest UDP payload over IPv4.
    private static let maximumSegments = 64
    private static let maximumRunBytes = 65_507
    private static let messageCapacity = 256
    private static let controlSize = 24

    private let headers: UnsafeMutablePointer<cl_mmsghdr>
    private let vectors: UnsafeMutablePointer<iovec>
    private let controls: UnsafeMutableRawPointer
    /// How many datagrams each message of the call stands for.
    private let runs: UnsafeMutablePointer<Int>
    /// Off once the kernel or a device has refused UDP_SEGMENT.
    private var canSegment = true

    public init() {
        headers = .allocate(capacity: Self.messageCapacity)
        vectors = .allocate(capacity: Self.messageCapacity)
        controls = .allocate(byteCount: Self.messageCapacity * Self.controlSize, alignment: 16)
        runs = .allocate(capacity: Self.messageCapacity)
        headers.initialize(repeating: cl_mmsghdr(), count: Self.messageCapacity)
        vectors.initialize(repeating: iovec(), count: Self.messageCapacity)
        for index in 0..<Self.messageCapacity {
            headers[index].msg_hdr.msg_iov = vectors + index
            headers[index].msg_hdr.msg_iovlen = 1
        }
    }

    deinit {
        headers.deallocate()
        vectors.deallocate()
        controls.deallocate()
        runs.deallocate()
    }

    /// Sends the datagrams that lie one after the other in `bytes`, with these sizes, without waiting.
    ///
    /// A datagram that the kernel refuses (EMSGSIZE) is left out, the rest goes on; when the socket's buffer is full
    /// the rest is left out.
    /// - Parameters:
    ///   - segmenting: whether the socket is UDP, so that UDP_SEGMENT may be used.
    ///   - retrying: whether to go on after an ICMP error for an earlier datagram. Otherwise that ends the batch before
    ///     anything of it is sent: for a caller that has another destination.
    public func send(
        _ bytes: UnsafeMutableRawBufferPointer, sizes: UnsafeBufferPointer<Int>, over socket: borrowing FileDescriptor,
        segmenting: Bool = true, retrying: Bool = true
    ) -> Outcome {
        var outcome = Outcome()
        // Datagrams before this one go by themselves.
        var single = segmenting && canSegment ? 0 : sizes.count
        var hasRetried = !retrying
        var retriedSize: Int?
        var offset = 0
        var next = 0
        while next < sizes.count {
            let messages = gather(bytes, from: offset, sizes: sizes, next: next, single: single)
            let (taken, error) = sendAll(messages, over: socket)
            let sent = (0..<taken).reduce(0) { $0 + runs[$1] }
            outcome.sent += sent
            for index in next..<(next + sent) { offset += sizes[index] }
            next += sent
            outcome.handled = next
            guard error != 0 else { continue }
            let isRepeated = error == EMSGSIZE ? retriedSize == next : hasRetried
            switch recovery(from: error, run: runs[taken], hasRetried: isRepeated) {
            case .retry:
                if error == EMSGSIZE { retriedSize = next } else { hasRetried = true }
            case .retryOneByOne:
                single = canSegment ? next + runs[taken] : sizes.count
            case .skip:
                outcome.error = error
                outcome.tooLarge += 1
                offset += sizes[next]
                next += 1
                outcome.handled = next
            case .stop:
                outcome.error = error
                return outcome
            }
        }
        return outcome
    }

    private enum Recovery { case retry, retryOneByOne, skip, stop }

    private func recovery(from error: Int32, run: Int, hasRetried: Bool) -> Recovery {
        switch error {
        // An ICMP error for an earlier datagram: it is reported once, in place of sending (udp(7)).
        case ECONNREFUSED, EHOSTUNREACH, ENETUNREACH: return hasRetried ? .stop : .retry
        // That an earlier one was too large for a router is reported so too, whatever the size of this one.
        case EMSGSIZE where !hasRetried: return .retry
        // No checksum offload below (EIO), or no such option: never again.
        case EIO where run > 1, EOPNOTSUPP where run > 1, ENOPROTOOPT where run > 1:
            canSegment = false
            return .retryOneByOne
        // A segment is larger than the path's MTU: the last one may be smaller, and without DF all may be fragmented.
        case EMSGSIZE where run > 1, EINVAL where run > 1: return .retryOneByOne
        case EMSGSIZE: return .skip
        default: return .stop
        }
    }

    /// Makes messages of the datagrams from `next` on, as many as fit, and returns their number.
    /// - Parameter single: the first that may be part of a run.
    private func gather(
        _ bytes: UnsafeMutableRawBufferPointer, from start: Int, sizes: UnsafeBufferPointer<Int>, next: Int,
        single: Int
    ) -> Int {
        guard let base = bytes.baseAddress else { return 0 }
        var offset = start
        var index = next
        var messages = 0
        while index < sizes.count, messages < Self.messageCapacity {
            let size = sizes[index]
            var run = 1
            var length = size
            // All of a run have the same size, except that the last may be shorter (udp(7), UDP_SEGMENT).
            while index >= single, index + run < sizes.count, run < Self.maximumSegments, sizes[index + run] <= size,
                length + sizes[index + run] <= Self.maximumRunBytes
            {
                length += sizes[index + run]
                run += 1
                if sizes[index + run - 1] < size { break }
            }
            vectors[messages] = iovec(iov_base: base + offset, iov_len: length)
            runs[messages] = run
            setSegment(size: run > 1 ? size : nil, of: messages)
            messages += 1
            index += run
            offset += length
        }
        return messages
    }

    private func setSegment(size: Int?, of index: Int) {
        guard let size else {
            headers[index].msg_hdr.msg_control = nil
            headers[index].msg_hdr.msg_controllen = 0
            return
        }
        let control = controls + index * Self.controlSize
        headers[index].msg_hdr.msg_control = control
        headers[index].msg_hdr.msg_controllen = cl_cmsg_space(2)
        let header = control.assumingMemoryBound(to: cmsghdr.self)
        header.pointee.cmsg_level = Int32(CL_SOL_UDP)
        header.pointee.cmsg_type = Int32(CL_UDP_SEGMENT)
        header.pointee.cmsg_len = cl_cmsg_len(2)
        cl_cmsg_data(header)?.storeBytes(of: UInt16(truncatingIfNeeded: size), as: UInt16.self)
    }

    /// - Returns: how many messages were taken, and the errno that stopped it.
    private func sendAll(_ count: Int, over socket: borrowing FileDescriptor) -> (taken: Int, error: Int32) {
        var taken = 0
        while taken < count {
            let result = cl_sendmmsg(
                socket.rawValue, headers + taken, UInt32(truncatingIfNeeded: count - taken), doNotWait)
            if result >= 0 {
                taken += Int(result)
            } else if errno != EINTR {
                return (taken, errno)
            }
        }
        return (taken, 0)
    }
}
