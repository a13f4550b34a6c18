import DTLSEngine

/// What the engines of one thread share. A connection has no buffers of its own.
package final class EngineBuffers {
    let bio: DatagramBIO
    /// Puts together the hellos of clients that come back without their state.
    package let fragments = HelloFragments()
    package let outbox: OutboxLender
    /// Where the last flights of handshakes are kept beside the connections; `nil` where they do not outlive this process.
    package var slots: SlotFile?
    /// What handshakes have found out about paths.
    var pathSizes = PathSizes()

    /// What an engine has done that may be counted, until it is taken.
    package var notes: EngineNotes { bio.notes }

    package init() throws(OpenSSLError) {
        bio = try DatagramBIO()
        outbox = OutboxLender(bio.outbox)
    }
}
