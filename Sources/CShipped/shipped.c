// SPDX-License-Identifier: Apache-2.0
//
// The files themselves, read by the compiler, which compiles this again when one of them changes. A test compares the
// list with the folders, so that a new file is not forgotten.
#include "include/cshipped.h"

#pragma clang diagnostic ignored "-Wc23-extensions"

static const unsigned char personas_b01_impatient[] = {
#embed "../../tuning/personas/b01-impatient.yaml"
};
static const unsigned char personas_b02_rustock_like[] = {
#embed "../../tuning/personas/b02-rustock-like.yaml"
};
static const unsigned char personas_b03_climbot_like[] = {
#embed "../../tuning/personas/b03-climbot-like.yaml"
};
static const unsigned char personas_b04_greylist_aware[] = {
#embed "../../tuning/personas/b04-greylist-aware.yaml"
};
static const unsigned char personas_b05_ylmf[] = {
#embed "../../tuning/personas/b05-ylmf.yaml"
};
static const unsigned char personas_b06_spray[] = {
#embed "../../tuning/personas/b06-spray.yaml"
};
static const unsigned char personas_b07_harvester[] = {
#embed "../../tuning/personas/b07-harvester.yaml"
};
static const unsigned char personas_b08_snowshoe[] = {
#embed "../../tuning/personas/b08-snowshoe.yaml"
};
static const unsigned char personas_b09_proxy[] = {
#embed "../../tuning/personas/b09-proxy.yaml"
};
static const unsigned char personas_b10_mail_bomb[] = {
#embed "../../tuning/personas/b10-mail-bomb.yaml"
};
static const unsigned char personas_b11_scanner[] = {
#embed "../../tuning/personas/b11-scanner.yaml"
};
static const unsigned char personas_b12_slowloris[] = {
#embed "../../tuning/personas/b12-slowloris.yaml"
};
static const unsigned char personas_b13_tls_burner[] = {
#embed "../../tuning/personas/b13-tls-burner.yaml"
};
static const unsigned char personas_b14_hardened[] = {
#embed "../../tuning/personas/b14-hardened.yaml"
};
static const unsigned char personas_l01_gmail_like[] = {
#embed "../../tuning/personas/l01-gmail-like.yaml"
};
static const unsigned char personas_l02_m365[] = {
#embed "../../tuning/personas/l02-m365.yaml"
};
static const unsigned char personas_l03_single_host[] = {
#embed "../../tuning/personas/l03-single-host.yaml"
};
static const unsigned char personas_l04_esp_bulk[] = {
#embed "../../tuning/personas/l04-esp-bulk.yaml"
};
static const unsigned char personas_l05_thirty_seconds[] = {
#embed "../../tuning/personas/l05-thirty-seconds.yaml"
};
static const unsigned char personas_l06_cloud_gateway[] = {
#embed "../../tuning/personas/l06-cloud-gateway.yaml"
};
static const unsigned char personas_l07_sixty_seconds[] = {
#embed "../../tuning/personas/l07-sixty-seconds.yaml"
};
static const unsigned char personas_l08_session_cap[] = {
#embed "../../tuning/personas/l08-session-cap.yaml"
};
static const unsigned char personas_l09_short_life[] = {
#embed "../../tuning/personas/l09-short-life.yaml"
};
static const unsigned char personas_l10_few_tries[] = {
#embed "../../tuning/personas/l10-few-tries.yaml"
};
static const unsigned char personas_l11_two_minutes[] = {
#embed "../../tuning/personas/l11-two-minutes.yaml"
};
static const unsigned char personas_p1_rspamd[] = {
#embed "../../tuning/personas/p1-rspamd.yaml"
};
static const unsigned char personas_p2_check_smtp[] = {
#embed "../../tuning/personas/p2-check-smtp.yaml"
};
static const unsigned char personas_p3_exim_callout[] = {
#embed "../../tuning/personas/p3-exim-callout.yaml"
};
static const unsigned char scenarios_curve[] = {
#embed "../../tuning/scenarios/curve.yaml"
};
static const unsigned char scenarios_day[] = {
#embed "../../tuning/scenarios/day.yaml"
};
static const unsigned char scenarios_demo[] = {
#embed "../../tuning/scenarios/demo.yaml"
};
static const unsigned char scenarios_flood_10k[] = {
#embed "../../tuning/scenarios/flood-10k.yaml"
};
static const unsigned char scenarios_hardened[] = {
#embed "../../tuning/scenarios/hardened.yaml"
};
static const unsigned char scenarios_mix_2010[] = {
#embed "../../tuning/scenarios/mix-2010.yaml"
};
static const unsigned char scenarios_mix_2025[] = {
#embed "../../tuning/scenarios/mix-2025.yaml"
};
static const unsigned char scenarios_ordinary[] = {
#embed "../../tuning/scenarios/ordinary.yaml"
};
static const unsigned char scenarios_overload[] = {
#embed "../../tuning/scenarios/overload.yaml"
};
static const unsigned char scenarios_pure_b1[] = {
#embed "../../tuning/scenarios/pure-b1.yaml"
};
static const unsigned char scenarios_rustock_climbot[] = {
#embed "../../tuning/scenarios/rustock-climbot.yaml"
};
static const unsigned char results_2026_11_21_md[] = {
#embed "../../tuning/results/2026-11-21.md.json"
};

#define FILE_OF(path, name) {path, name, sizeof name}

static const struct cshipped_file all[] = {
    FILE_OF("personas/b01-impatient.yaml", personas_b01_impatient),
    FILE_OF("personas/b02-rustock-like.yaml", personas_b02_rustock_like),
    FILE_OF("personas/b03-climbot-like.yaml", personas_b03_climbot_like),
    FILE_OF("personas/b04-greylist-aware.yaml", personas_b04_greylist_aware),
    FILE_OF("personas/b05-ylmf.yaml", personas_b05_ylmf),
    FILE_OF("personas/b06-spray.yaml", personas_b06_spray),
    FILE_OF("personas/b07-harvester.yaml", personas_b07_harvester),
    FILE_OF("personas/b08-snowshoe.yaml", personas_b08_snowshoe),
    FILE_OF("personas/b09-proxy.yaml", personas_b09_proxy),
    FILE_OF("personas/b10-mail-bomb.yaml", personas_b10_mail_bomb),
    FILE_OF("personas/b11-scanner.yaml", personas_b11_scanner),
    FILE_OF("personas/b12-slowloris.yaml", personas_b12_slowloris),
    FILE_OF("personas/b13-tls-burner.yaml", personas_b13_tls_burner),
    FILE_OF("personas/b14-hardened.yaml", personas_b14_hardened),
    FILE_OF("personas/l01-gmail-like.yaml", personas_l01_gmail_like),
    FILE_OF("personas/l02-m365.yaml", personas_l02_m365),
    FILE_OF("personas/l03-single-host.yaml", personas_l03_single_host),
    FILE_OF("personas/l04-esp-bulk.yaml", personas_l04_esp_bulk),
    FILE_OF("personas/l05-thirty-seconds.yaml", personas_l05_thirty_seconds),
    FILE_OF("personas/l06-cloud-gateway.yaml", personas_l06_cloud_gateway),
    FILE_OF("personas/l07-sixty-seconds.yaml", personas_l07_sixty_seconds),
    FILE_OF("personas/l08-session-cap.yaml", personas_l08_session_cap),
    FILE_OF("personas/l09-short-life.yaml", personas_l09_short_life),
    FILE_OF("personas/l10-few-tries.yaml", personas_l10_few_tries),
    FILE_OF("personas/l11-two-minutes.yaml", personas_l11_two_minutes),
    FILE_OF("personas/p1-rspamd.yaml", personas_p1_rspamd),
    FILE_OF("personas/p2-check-smtp.yaml", personas_p2_check_smtp),
    FILE_OF("personas/p3-exim-callout.yaml", personas_p3_exim_callout),
    FILE_OF("scenarios/curve.yaml", scenarios_curve),
    FILE_OF("scenarios/day.yaml", scenarios_day),
    FILE_OF("scenarios/demo.yaml", scenarios_demo),
    FILE_OF("scenarios/flood-10k.yaml", scenarios_flood_10k),
    FILE_OF("scenarios/hardened.yaml", scenarios_hardened),
    FILE_OF("scenarios/mix-2010.yaml", scenarios_mix_2010),
    FILE_OF("scenarios/mix-2025.yaml", scenarios_mix_2025),
    FILE_OF("scenarios/ordinary.yaml", scenarios_ordinary),
    FILE_OF("scenarios/overload.yaml", scenarios_overload),
    FILE_OF("scenarios/pure-b1.yaml", scenarios_pure_b1),
    FILE_OF("scenarios/rustock-climbot.yaml", scenarios_rustock_climbot),
    FILE_OF("results/2026-11-21.md.json", results_2026_11_21_md),
};

const struct cshipped_file *cshipped_file(size_t index) {
  return index < sizeof all / sizeof all[0] ? &all[index] : NULL;
}
