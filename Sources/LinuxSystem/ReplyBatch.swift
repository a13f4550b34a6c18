import CLinux
import Glibc

/// Small datagrams from one unconnected socket to many peers, each sent from the local address that the peer has used.
/// They are a listener's answers to one batch of ClientHellos, and are sent by one sendmmsg(2).
public final class ReplyBatch {
    public let capacity: Int
    public private(set) var count = 0
    private let slotSize: Int
    private let bytes: UnsafeMutableRawPointer
    private let headers: UnsafeMutablePointer<cl_mmsghdr>
    private let vectors: UnsafeMutablePointer<iovec>
    private let names: UnsafeMutablePointer<sockaddr_storage>
    private let controls: UnsafeMutableRawPointer
    private static let controlSize = 64

    public init(capacity: Int = 64, slotSize: Int = 128) {
        self.capacity = capacity
        self.slotSize = slotSize
        bytes = .allocate(byteCount: capacity * slotSize, alignment: 64)
        headers = .allocate(capacity: capacity)
        vectors = .allocate(capacity: capacity)
        names = .allocate(capacity: capacity)
        controls = .allocate(byteCount: capacity * Self.controlSize, alignment: 16)
        names.initialize(repeating: sockaddr_storage(), count: capacity)
        vectors.initialize(repeating: iovec(), count: capacity)
        headers.initialize(repeating: cl_mmsghdr(), count: capacity)
    }

    deinit {
        bytes.deallocate()
        headers.deallocate()
        vectors.deallocate()
        names.deallocate()
        controls.deallocate()
    }

    /// Adds the datagram that `write` puts into the buffer; `write` returns its size, or 0 for no datagram.
    /// Nothing is added when the batch is full, so send a full batch first.
    /// - Parameter local: the address that it leaves from; `nil`: the one that the socket is bound to, which takes the kernel
    ///   0.1 µs less than to be told.
    public func add(
        to peer: SocketAddress, from local: SocketAddress?, _ write: (UnsafeMutableRawBufferPointer) -> Int
    ) {
        guard count < capacity else { return }
        let slot = bytes + count * slotSize
        let size = write(UnsafeMutableRawBufferPointer(start: slot, count: slotSize))
        guard size > 0, size <= slotSize else { return }
        vectors[count] = iovec(iov_base: slot, iov_len: size)
        headers[count].msg_hdr.msg_name = UnsafeMutableRawPointer(names + count)
        headers[count].msg_hdr.msg_namelen = peer.write(to: names + count)
        headers[count].msg_hdr.msg_iov = vectors + count
        headers[count].msg_hdr.msg_iovlen = 1
        if let local {
            setSource(local, of: count)
        } else {
            headers[count].msg_hdr.msg_control = nil
            headers[count].msg_hdr.msg_controllen = 0
        }
        count += 1
    }

    private func setSource(_ local: SocketAddress, of index: Int) {
        let control = controls + index * Self.controlSize
        headers[index].msg_hdr.msg_control = control
        let header = control.assumingMemoryBound(to: cmsghdr.self)
        guard let data = cl_cmsg_data(header) else { return }
        local.withBytes { address in
            switch local.family {
            case .ipv4:
                var info = in_pktinfo()
                withUnsafeMutableBytes(of: &info.ipi_spec_dst) { $0.copyMemory(from: .init(rebasing: address[..<4])) }
                data.storeBytes(of: info, as: in_pktinfo.self)
                set(header, ipProtocolIP, CL_IP_PKTINFO, MemoryLayout<in_pktinfo>.size, index)
            case .ipv6:
                var info = cl_in6_pktinfo()
                withUnsafeMutableBytes(of: &info.ipi6_addr) { $0.copyMemory(from: .init(rebasing: address[..<16])) }
                info.ipi6_ifindex = local.scope
                data.storeBytes(of: info, as: cl_in6_pktinfo.self)
                set(header, ipProtocolIPv6, CL_IPV6_PKTINFO, MemoryLayout<cl_in6_pktinfo>.size, index)
            }
        }
    }

    private func set(
        _ header: UnsafeMutablePointer<cmsghdr>, _ level: Int32, _ type: Int32, _ size: Int, _ index: Int
    ) {
        header.pointee.cmsg_level = level
        header.pointee.cmsg_type = type
        header.pointee.cmsg_len = cl_cmsg_len(size)
        headers[index].msg_hdr.msg_controllen = cl_cmsg_space(size)
    }

    /// Sends all datagrams without waiting, and empties the batch.
    /// - Returns: the number of datagrams that the kernel refused; it skips these and sends the others.
    public func send(over socket: borrowing FileDescriptor) -> Int {
        var next = 0
        var refused = 0
        while next < count {
            let sent = cl_sendmmsg(
                socket.rawValue, headers + next, UInt32(truncatingIfNeeded: count - next), doNotWait)
            if sent > 0 {
                next += Int(sent)
            } else if errno != EINTR {
                next += 1
                refused += 1
            }
        }
        count = 0
        return refused
    }
}
