"""Django: `migrate` with two migrations of an application of its own, the second one in one transaction with its data."""
import os
import pathlib
import sys
import tempfile

import django
from django.conf import settings
from django.core.management import call_command

FIRST = """
from django.db import migrations, models
class Migration(migrations.Migration):
    initial = True
    operations = [migrations.CreateModel("Item", [("id", models.BigAutoField(primary_key=True)), ("name", models.TextField())],
                                         options={"db_table": "django_item"})]
"""
SECOND = """
from django.db import migrations, models
def fill(apps, editor):
    apps.get_model("shop", "Item").objects.create(name="a", price=1)
class Migration(migrations.Migration):
    dependencies = [("shop", "0001_items")]
    operations = [migrations.AddField("item", "price", models.DecimalField(max_digits=10, decimal_places=2, null=True)),
                  migrations.AddIndex("item", models.Index(fields=["name"], name="django_item_name")),
                  migrations.RunPython(fill)]
"""
with tempfile.TemporaryDirectory() as folder:
    migrations = pathlib.Path(folder) / "shop" / "migrations"
    migrations.mkdir(parents=True)
    (migrations.parent / "__init__.py").touch()
    (migrations / "__init__.py").touch()
    (migrations / "0001_items.py").write_text(FIRST)
    (migrations / "0002_prices.py").write_text(SECOND)
    sys.path.insert(0, folder)
    settings.configure(
        INSTALLED_APPS=["shop"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DATABASE"], "USER": "postgres",
                               "HOST": os.environ["HOST"], "PORT": os.environ["PORT"],
                               "OPTIONS": {"application_name": "django"}}})
    django.setup()
    call_command("migrate", verbosity=0)
    from django.db import connection, transaction
    with connection.cursor() as cursor:
        cursor.execute("select name, price from django_item")
        assert cursor.fetchall()[0][0] == "a"
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("create table django_gone (a int)")
            raise KeyError
    except KeyError:
        pass
    connection.close()
print("version", django.__version__)
