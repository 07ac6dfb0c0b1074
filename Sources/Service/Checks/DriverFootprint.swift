// SPDX-License-Identifier: Apache-2.0
package import Configuration
import Driver
import Structures

extension DriverFootprint {
  /// Of the driver that this service runs.
  package static var measured: DriverFootprint {
    DriverFootprint(
      slot: Driver.bytesPerSlot, clientSendBuffer: Int(Driver.clientSendBuffer),
      linkBuffers: Int(Driver.linkSendBuffer) + Int(Driver.linkReceiveBuffer),
      secureSlot: Driver.bytesPerSecureSlot + PlaceMap.bytesEach,
      secureBuffers: Driver.secureBufferCount * Driver.secureBufferBytes,
      mailbox: Worker.mailboxBytes)
  }
}
