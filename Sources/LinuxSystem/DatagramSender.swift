import CLinux
import Glibc

/// Sends many datagrams in one system call over a connected socket.
///
/// A run of datagrams of equal size is one message with UDP_SEGMENT, which the kernel splits, and all runs are sent by
/// one sendmmsg(2). One sender serves all sockets of a thread.
public final class DatagramSender {
    /// The outcome of sending one batch.
    public struct Outcome {
        /// The number of datagrams that the kernel accepted.
        public var sent = 0
        /// The number of datagrams that were accepted or refused. Later ones were not tried, since the socket is full.
        public var handled = 0
        /// The number of datagrams that were refused because they exceed the path MTU (EMSGSIZE).
        public var tooLarge = 0
        /// The last errno, or 0. EAGAIN: the socket's buffer is full; ECONNREFUSED: the peer's port is closed.
        public var error: Int32 = 0
    }

    /// These are UDP_MAX_SEGMENTS of Linux before 6.9, and the largest UDP payload over IPv4.
    private static let maximumSegments = 64
    private static let maximumRunBytes = 65_507
    private static let messageCapacity = 256
    private static let controlSize = 24

    private let headers: UnsafeMutablePointer<cl_mmsghdr>
    private let vectors: UnsafeMutablePointer<iovec>
    private let controls: UnsafeMutableRawPointer
    /// The number of datagrams in each message of the call.
    private let runs: UnsafeMutablePointer<Int>
    /// Becomes false once the kernel or a device has refused UDP_SEGMENT.
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

    /// Sends the datagrams of these sizes, which follow one another in `bytes`, without waiting.
    ///
    /// A datagram that the kernel refuses (EMSGSIZE) is skipped. When the socket's buffer is full, the remaining
    /// datagrams are not sent.
    /// - Parameters:
    ///   - segmenting: whether the socket is UDP, so that UDP_SEGMENT may be used.
    ///   - retrying: whether to go on after an ICMP error for an earlier datagram. Otherwise that ends the batch before
    ///     anything of it is sent: for a caller that has another destination.
    public func send(
        _ bytes: UnsafeMutableRawBufferPointer, sizes: UnsafeBufferPointer<Int>, over socket: borrowing FileDescriptor,
        segmenting: Bool = true, retrying: Bool = true
    ) -> Outcome {
        var outcome = Outcome()
        // Datagrams before this one are not part of any run.
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
        // This is an ICMP error for an earlier datagram. The kernel reports it once, instead of sending (udp(7)).
        case ECONNREFUSED, EHOSTUNREACH, ENETUNREACH: return hasRetried ? .stop : .retry
        // EMSGSIZE can mean that an earlier one was too large for a router, whatever the size of this one.
        case EMSGSIZE where !hasRetried: return .retry
        // The device has no checksum offload (EIO), or the kernel has no such option: do not try again.
        case EIO where run > 1, EOPNOTSUPP where run > 1, ENOPROTOOPT where run > 1:
            canSegment = false
            return .retryOneByOne
        // A segment exceeds the path MTU. The last one may be smaller, and without DF all may be fragmented.
        case EMSGSIZE where run > 1, EINVAL where run > 1: return .retryOneByOne
        case EMSGSIZE: return .skip
        default: return .stop
        }
    }

    /// Prepares as many messages as fit for the datagrams from `next` on, and returns their number.
    /// - Parameter single: the first datagram that may be part of a run.
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
            // All datagrams of a run have the same size, but the last one may be shorter (udp(7), UDP_SEGMENT).
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

    /// - Returns: how many messages the kernel accepted, and the errno that ended the call.
    private func sendAll(_ count: Int, over socket: borrowing FileDescriptor) -> (taken: Int, error: Int32) {
        var taken = 0
        while taken < count {
            let header = headers + taken
            let result: Int32
            if count - taken == 1, header.pointee.msg_hdr.msg_control == nil {
                // Without the lists around it, one datagram costs the kernel less.
                let vector = vectors[taken]
                result = Glibc.send(socket.rawValue, vector.iov_base, vector.iov_len, doNotWait) < 0 ? -1 : 1
            } else {
                result = cl_sendmmsg(
                    socket.rawValue, header, UInt32(truncatingIfNeeded: count - taken), doNotWait)
            }
            if result >= 0 {
                taken += Int(result)
            } else if errno != EINTR {
                return (taken, errno)
            }
        }
        return (taken, 0)
    }
}
