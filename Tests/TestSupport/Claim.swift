import Foundation

/// What one test at a time may have on this machine, whatever run of the tests it belongs to. It is an abstract Unix
/// socket (unix(7)), so it ends with its process at the latest, however that ends.
package final class Claim: Sendable {
    private let descriptor: Int32

    /// `nil` if somebody has it.
    package init?(_ name: String) {
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // A zero in front makes the name abstract.
        let bytes = [0] + Array(name.utf8)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count)
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
        }
        guard bound == 0 else { return nil }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }
}
