import Glibc
import LinuxSystem

/// `source` and `interface`: from where backends and servers are sent to.
extension TableReader {
    /// Reports sources from which none of the peers can be sent to.
    /// - Parameters:
    ///   - mayHaveOthers: whether there are peers whose addresses are not known yet.
    ///   - kind: what a peer is.
    ///   - prefix: what stands before a peer's address in the file.
    func check(
        _ sources: [Element<LocalSource>], _ property: PartialKeyPath<Section>, against peers: [SocketAddress],
        mayHaveOthers: Bool, _ kind: String, _ prefix: String = ""
    ) {
        for source in sources {
            let address = source.value.address
            let peers = peers.filter { $0.family == address.family }
            if peers.isEmpty, !mayHaveOthers {
                let family = address.family == .ipv4 ? "IPv4" : "IPv6"
                report(
                    property, element: source.number,
                    "no \(kind) has an \(family) address, so nothing would be sent from \(address.host); expected an"
                        + " address of the same family as a UDP \(kind)")
            }
            for peer in peers {
                guard let reason = address.reasonAgainstSending(to: peer) else { continue }
                report(
                    property, element: source.number,
                    "nothing can be sent from \(address.host) to the \(kind) \(prefix)\(peer): \(reason); expected an"
                        + " address of this machine from which the \(kind) can be reached")
            }
        }
    }
}

extension SocketAddress {
    /// Why the kernel sends nothing from this address to another one, whatever networks are up; `nil` where it may.
    fileprivate func reasonAgainstSending(to peer: SocketAddress) -> String? {
        do throws(SystemError) {
            let socket = try UDPSocket.open(family)
            try UDPSocket.bindWithoutPort(socket, to: self)
            try UDPSocket.connect(socket, to: peer)
            return nil
        } catch {
            // EINVAL: nothing leaves the machine from a loopback address. Other errors may pass.
            return error.operation == "connect" && error.errno == EINVAL ? error.reason : nil
        }
    }
}

extension ValueType where Value == [Element<LocalSource>] {
    static var sources: Self {
        Self(
            "an address of this machine in numbers, alone or with ports (\"ADDRESS:FIRST-LAST\","
                + " \"[IPv6 ADDRESS]:FIRST-LAST\"), or an array of several"
        ) { field in
            var found: [Element<LocalSource>] = []
            for text in field.strings {
                guard let source = source(text.value) else {
                    field.reportMismatch(element: text.number, found: text.value)
                    continue
                }
                let address = source.address
                let isAnyAddress = address.isWildcard && source.ports != nil
                if !isAnyAddress, let reason = address.reasonAgainst(.source) {
                    field.report(element: text.number, "\(address.host) \(reason)")
                } else if let earlier = found.first(where: { $0.value.address == address }) {
                    let line = field.context.line(of: field.path, element: earlier.number).map { " (line \($0))" } ?? ""
                    field.report(
                        element: text.number, "\(address.host) is there already\(line); expected each address once")
                } else {
                    if !isAnyAddress { check(address, text.number, field) }
                    found.append(Element(number: text.number, value: source))
                }
            }
            return found
        }
    }

    private static func source(_ text: String) -> LocalSource? {
        if let address = SocketAddress(host: text, port: 0) { return LocalSource(address: address) }
        guard let colon = text.lastIndex(of: ":"), let ports = PortRange(text[text.index(after: colon)...]),
            let address = SocketAddress("\(text[..<colon]):\(ports.first)")
        else { return nil }
        return LocalSource(address: address.with(port: 0), ports: ports)
    }

    /// Checks that this machine has the address. The loader shares the workers' network.
    private static func check(_ address: SocketAddress, _ element: Int, _ field: Field) {
        do throws(SystemError) {
            try UDPSocket.bindWithoutPort(try UDPSocket.open(address.family), to: address)
        } catch {
            // An interface may get its address later, as during boot.
            let isMissing = error.errno == EADDRNOTAVAIL
            field.report(
                element: element,
                "\(address.host): \(isMissing ? "no interface of this machine has the address" : error.description);"
                    + " expected \(field.expected)", isTransient: isMissing)
        }
    }
}

extension ValueType where Value == String {
    /// An interface that sockets to backends and servers are bound to. It may appear later, as that of a modem or a VPN.
    static var outgoingInterface: Self {
        let name = string("the name of a network interface")
        return Self(name.expected) { field in
            guard let name = name.read(field) else { return nil }
            guard name.utf8.count < IF_NAMESIZE, !name.contains("/"), !name.contains(where: \.isWhitespace) else {
                field.reportMismatch(found: name)
                return nil
            }
            if NetworkInterface.index(of: name) == 0 {
                field.warn("there is no interface \(ReadContext.quoted(name)) yet; nothing is sent before it is there")
            }
            return name
        }
    }
}
