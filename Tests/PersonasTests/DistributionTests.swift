// SPDX-License-Identifier: Apache-2.0
import Personas
import Testing
